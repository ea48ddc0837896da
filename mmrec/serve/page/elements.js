// The elements of the page. Strings become text nodes, never markup: a title may hold anything.

import { pictureOf } from "./service.js";

const score = new Intl.NumberFormat("en", { minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const similarity = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const percent = new Intl.NumberFormat("en", { style: "percent" });

export function make(name, attributes = {}, ...content) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content);
  return node;
}

export function button(label, click, className = "") {
  const node = make("button", { type: "button", class: className }, label);
  node.addEventListener("click", click);
  return node;
}

const waiting = new WeakMap();
const nearby = new IntersectionObserver((entries) => entries.forEach(fillNear), { rootMargin: "300px" });

function fillNear({ isIntersecting, target }) {
  if (!isIntersecting) return;
  nearby.unobserve(target);
  waiting.get(target)();
}

/** Picture and linked title of an item, asked for when they come near the screen: a list may be long. */
function portrait(id, { describe, hrefOf, signal }, title = id) {
  const picture = make("div", { class: "picture", "aria-hidden": true }); // the title beside it says what it is
  const link = make("a", { href: hrefOf(id), "data-item": id }, title);
  const fill = async () => {
    const item = await describe(id);
    link.textContent = item.title;
    if (item.image) picture.replaceChildren(await pictureOf(id, signal));
  };
  waiting.set(link, () => fill().catch(() => {})); // id and placeholder stay: one item must not hide the others
  nearby.observe(link); // the picture may be hidden
  return [picture, link];
}

/** A row of the history. */
export function rowOf(id, context) {
  const [picture, link] = portrait(id, context);
  const name = make("div", { class: "name" }, link, make("span", { class: "quiet id" }, id));
  return make("li", { class: "row" }, picture, name);
}

/** A recommended or similar item. */
export function cardOf({ item, score: value, why }, place, title, context) {
  const [picture, link] = portrait(item, context, title);
  const worth = make("span", { class: "score" }, "score ", make("b", {}, score.format(value)));
  const facts = make("p", { class: "facts" }, make("span", { class: "quiet id" }, item), worth);
  const body = make("div", { class: "body" }, make("h3", {}, link), facts, ...(why ? [whyOf(why, context)] : []));
  return make("li", { class: "card" }, make("span", { class: "rank" }, place + 1), picture, body);
}

function whyOf({ nearest = [], modalities = {} }, context) {
  const node = make("div", { class: "why" });
  const rows = nearest.map(({ item, similarity: value }) =>
    make("li", {}, ...portrait(item, context), make("span", { class: "number" }, similarity.format(value))),
  );
  const shares = Object.entries(modalities ?? {}).map(shareOf);
  if (rows.length) node.append(make("h4", {}, "Closest in the history"), make("ul", { class: "nearest" }, ...rows));
  if (shares.length) node.append(make("h4", {}, "Similar in"), make("ul", { class: "shares" }, ...shares));
  return node;
}

function shareOf([name, value], place) {
  const bar = make("span", { class: `bar c${place % 6}` });
  bar.style.setProperty("--share", Math.min(Math.max(value, 0), 1));
  const number = make("span", { class: "number" }, percent.format(value));
  return make("li", {}, make("span", {}, name), make("span", { class: "track" }, bar), number);
}

/** Cards that hold the place of those to come. */
export function blanks(count) {
  const parts = () => ["picture", "line", "line short"].map((name) => make("div", { class: name }));
  const card = () => make("li", { class: "card blank", "aria-hidden": true }, ...parts());
  return Array.from({ length: Math.max(0, Math.min(count, 12)) }, card);
}

/** Picture, title and attributes of one item. */
export function profileOf(id, { title, attributes, image }, signal) {
  const picture = make("div", { class: "picture large", "aria-hidden": true });
  if (image) pictureOf(id, signal).then((node) => picture.append(node)).catch(() => {}); // the placeholder stays
  const others = Object.entries(attributes).filter(([, value]) => ![null, title].includes(value));
  return [picture, make("p", { class: "name" }, title), make("dl", { class: "attributes" }, ...others.map(factOf))];
}

function factOf([name, value]) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, [value].flat().join(", ")));
}

/** What was expected, what was found and what to do; `again` adds a button for what may pass by itself. */
export function problemOf({ expected, found, step, status, wait }, again) {
  const lines = Object.entries({ expected, found, do: step }).map(factOf);
  const node = make("div", { class: "problem" }, make("dl", {}, ...lines));
  const passing = status === 0 || status >= 500;
  if (again && passing) node.append(make("p", {}, button("Try again", again), wait ? ` after ${wait} s` : ""));
  return node;
}
