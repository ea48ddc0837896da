// The elements of the page. Strings become text nodes, never markup: a title may hold anything.

import { pictureOf } from "./service.js";

const number = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 4 });
const share = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const COLOURS = 6; // c0 … c5 of the style sheet

export function make(name, className, ...content) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

const waiting = new WeakMap();
const nearby = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      waiting.get(target)();
    }
  },
  { rootMargin: "300px" },
);

/** Picture and linked title of an item, asked for when they come near the screen: a list may be long. */
function portrait(id, { describe, href, signal }, title = id) {
  const picture = make("div", "picture");
  picture.setAttribute("aria-hidden", "true"); // the title beside it says what it is
  const link = make("a", "", title);
  link.href = href(id);
  waiting.set(picture, async () => {
    try {
      const item = await describe(id);
      link.textContent = item.title;
      if (item.image) picture.replaceChildren(await pictureOf(id, signal));
    } catch {
      // the id and the placeholder stay: one item less must not hide the others
    }
  });
  nearby.observe(picture);
  return { picture, link };
}

/** A row of the history. */
export function rowOf(id, context) {
  const { picture, link } = portrait(id, context);
  return make("li", "row", picture, make("div", "name", link, make("span", "quiet id", id)));
}

/** A recommended or similar item: {item, score, why?}. */
export function cardOf({ item, score, why }, place, title, context) {
  const { picture, link } = portrait(item, context, title);
  picture.append(); // stays empty until the picture is there
  const card = make("li", "card");
  card.dataset.item = item;
  const facts = make("p", "facts", make("span", "quiet id", item), make("span", "score", "score ", make("b", "", number.format(score))));
  card.append(make("span", "rank", String(place + 1)), picture, make("div", "body", make("h3", "", link), facts, ...whyOf(why, context)));
  return card;
}

function whyOf(why, context) {
  if (!why) return [];
  const parts = [];
  if (why.nearest?.length) {
    const rows = why.nearest.map(({ item, similarity }) => {
      const { picture, link } = portrait(item, context);
      return make("li", "", picture, link, make("span", "number", number.format(similarity)));
    });
    parts.push(make("h4", "", "Closest in the history"), make("ul", "nearest", ...rows));
  }
  const modalities = Object.entries(why.modalities ?? {});
  if (modalities.length) parts.push(make("h4", "", "Similar in"), make("ul", "shares", ...modalities.map(shareOf)));
  return [make("div", "why", ...parts)];
}

function shareOf([name, value], place) {
  const bar = make("span", `bar c${place % COLOURS}`);
  bar.style.setProperty("--share", Math.min(Math.max(value, 0), 1));
  return make("li", "", make("span", "name", name), make("span", "track", bar), make("span", "number", share.format(value)));
}

/** Cards that hold the place of those to come, so that nothing jumps. */
export function blanks(count) {
  return Array.from({ length: Math.max(0, Math.min(count, 12)) }, () => {
    const node = make("li", "card blank", make("div", "picture"), make("div", "body", make("div", "line"), make("div", "line short")));
    node.setAttribute("aria-hidden", "true");
    return node;
  });
}

/** Picture, title and attributes of one item. */
export function profileOf(id, item, signal) {
  const picture = make("div", "picture large");
  picture.setAttribute("aria-hidden", "true");
  if (item.image) pictureOf(id, signal).then((image) => picture.replaceChildren(image), () => {});
  const facts = Object.entries(item.attributes)
    .filter(([name, value]) => name !== "image" && value !== null && value !== "" && value !== item.title)
    .map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", textOf(value))));
  return [picture, make("p", "name", item.title), make("dl", "attributes", ...facts)];
}

function textOf(value) {
  const text = Array.isArray(value) ? value.join(", ") : String(value);
  return text.length > 300 ? `${text.slice(0, 300).trimEnd()}…` : text;
}

/** What was expected, what was found and what to do; `again` adds a button. */
export function problemOf({ expected, found, step, wait }, again) {
  const lines = { expected, found, do: step };
  const parts = Object.entries(lines).map(([name, text]) => make("div", "", make("dt", "", name), make("dd", "", String(text ?? ""))));
  const node = make("div", "problem", make("dl", "", ...parts));
  if (again) {
    const button = make("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", again);
    node.append(make("p", "", button, wait ? make("span", "quiet", ` The service asks for ${wait} s of patience.`) : ""));
  }
  return node;
}
