// What is shown follows from the address: #user=… or #item=… with k and where, so that reload, back and links work.

import { blanks, button, cardOf, make, problemOf, profileOf, rowOf } from "./elements.js";
import { offer } from "./search.js";
import { ask, currentKey, describer, Problem, titleOf, useKey } from "./service.js";

const DEFAULT_K = 10;
const countOf = (items) => `${items.length} ${items.length === 1 ? "item" : "items"}`;
const at = (id) => document.getElementById(id);
const fields = { query: at("query"), k: at("k"), where: at("where"), key: at("key") };
const quiet = (text) => make("p", { class: "quiet" }, text);
const hrefOf = (item) => hashOf({ kind: "item", id: item });
const contextOf = (signal) => ({ describe: describer(info, signal), hrefOf, signal });
const announce = (text) => (at("live").textContent = text);

let info = Promise.resolve({}); // what the service says about itself
let request = new AbortController(); // of the list on its way; the next one aborts it
let about = new AbortController(); // of what stands beside the list, which outlives a change of k and filter
let shown = {};
let edited = null; // the field changed since the last good answer: where an error of input belongs
let depth = history.state?.depth ?? 0; // entries of ours behind this one: whether there is a way back

function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const kind = ["user", "item"].find((name) => given.has(name)) ?? null;
  const k = Number(given.get("k") ?? DEFAULT_K);
  return { kind, id: given.get(kind), k: Number.isInteger(k) ? k : DEFAULT_K, where: given.get("where") ?? "" };
}

function hashOf(change) {
  const { kind, id, k, where } = { ...readView(), ...change };
  const given = new URLSearchParams(kind ? { [kind]: id } : {});
  if (k !== DEFAULT_K) given.set("k", k);
  if (where) given.set("where", where);
  return `#${given}`;
}

/** Another k or filter replaces the entry: back leads to the list before, not through every value tried. */
function apply(field) {
  edited = field;
  const change = { k: Number(fields.k.value || DEFAULT_K), where: fields.where.value.trim() };
  history.replaceState(history.state, "", hashOf(change));
  for (const link of at("about-content").querySelectorAll("a")) link.href = hrefOf(link.dataset.item); // stay in step
  show();
}

/** Show what the address says; `moved` when a link or the back button led here, and the focus has to follow. */
async function show({ moved = false } = {}) {
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const [view, before] = [readView(), shown];
  const changed = view.kind !== before.kind || view.id !== before.id;
  shown = view;
  [fields.query.value, fields.k.value, fields.where.value] = [view.id ?? "", view.k, view.where];
  clearProblems();
  [at("start").hidden, at("view").hidden] = [view.kind !== null, view.kind === null];
  document.title = view.kind ? `${view.id} – mmrec` : "mmrec";
  if (changed) prepare(view);
  if (!view.kind) return showExamples(signal);
  if (changed && moved) at("list-title").focus({ preventScroll: true });
  await showList(view, signal);
  if (signal.aborted || document.activeElement !== at("list-title")) return;
  at("cards").querySelector(`h3 [data-item="${CSS.escape(before.id)}"]`)?.focus(); // back at the card that was left
}

function prepare(view) {
  about.abort();
  about = new AbortController();
  scrollTo(0, 0);
  if (!view.kind) return;
  at("back").hidden = depth === 0;
  at("list-title").textContent = `${view.kind === "user" ? "Recommended for" : "Similar to"} ${view.id}`;
  at("summary").textContent = "Loading…";
  at("cards").replaceChildren(...blanks(view.k));
  at("view").classList.remove("alone");
  at("about-title").textContent = view.kind === "user" ? "History" : "Item";
  at("about-content").replaceChildren(quiet("Loading…"));
  showAbout(view, about.signal);
}

async function showList(view, signal) {
  const body = { [view.kind]: view.id, k: view.k, attributes: true, ...(view.where && { where: view.where }) };
  const [path, more] = view.kind === "user" ? ["recommend", { explain: true }] : ["similar", {}];
  at("list").setAttribute("aria-busy", "true");
  try {
    const answer = await ask(path, { body: { ...body, ...more }, signal });
    const { title: name } = await info;
    signal.throwIfAborted();
    edited = null;
    drawList(view, answer, name, signal);
  } catch (error) {
    if (!signal.aborted) fail(error, view);
  } finally {
    if (!signal.aborted) at("list").setAttribute("aria-busy", "false");
  }
}

function drawList({ where }, { items, bundle }, name, signal) {
  const context = contextOf(signal);
  const title = ({ item, attributes }) => titleOf(item, attributes, name);
  at("view").classList.remove("alone");
  at("cards").replaceChildren(...items.map((entry, place) => cardOf(entry, place, title(entry), context)));
  const summary = `${items.length ? countOf(items) : "No item"}${where && ` where ${where}`}`;
  at("summary").textContent = `${summary} · bundle ${bundle}`;
  announce(`${at("list-title").textContent}: ${summary}`);
}

async function showAbout({ kind, id }, signal) {
  try {
    const content = await (kind === "user" ? historyOf : itemOf)(id, contextOf(signal));
    if (!signal.aborted) at("about-content").replaceChildren(...content);
  } catch (error) {
    if (!signal.aborted) at("about-content").replaceChildren(quiet(`Not there: ${error.message}`));
  }
}

async function itemOf(id, { describe, signal }) {
  const item = await describe(id);
  signal.throwIfAborted();
  at("list-title").textContent = `Similar to ${item.title}`;
  return profileOf(id, item, signal);
}

async function historyOf(id, context) {
  const [{ history }, { in_time: inTime }] = await Promise.all([ask(`users/${encodeURIComponent(id)}`, context), info]);
  const rows = (inTime ? history.toReversed() : history).map((item) => rowOf(item, context));
  const note = rows.length ? countOf(rows) + (inTime ? ", newest first" : "") : "Empty";
  return [quiet(note), make("ol", { class: "rows" }, ...rows)];
}

async function showExamples(signal) {
  const { results = [] } = await ask("search?q=&kind=user&limit=6", { signal }).catch(() => ({})); // no need, a nicety
  if (signal.aborted || !results.length) return;
  const links = results.map(({ id }) => make("a", { class: "example", href: hashOf({ kind: "user", id }) }, id));
  at("examples").replaceChildren(quiet("For example"), make("p", {}, ...links));
}

function clearProblems() {
  for (const name of [...Object.keys(fields), "list"]) at(`${name}-problem`).replaceChildren();
  for (const field of Object.values(fields)) field.removeAttribute("aria-invalid");
}

/** Put an error beside the field it speaks of, where the results before may stay, or else in the place of the list. */
function fail(error, { where }) {
  if (!(error instanceof Problem)) throw error;
  const field = { 400: edited ?? (where ? "where" : null), 401: "key" }[error.status] ?? null;
  if (field === "key") at("access").open = true;
  fields[field]?.setAttribute("aria-invalid", "true");
  at(`${field ?? "list"}-problem`).replaceChildren(problemOf(error, restart));
  if (field && !at("cards").querySelector(".blank")) return;
  at("cards").replaceChildren();
  at("summary").textContent = field ? "Nothing to show yet." : "";
  at("view").classList.toggle("alone", !["k", "where"].includes(field));
}

function restart() {
  shown = {};
  loadInfo();
  show();
}

async function findOptions(text, signal) {
  at("query-problem").replaceChildren();
  const search = (kind) => ask(`search?${new URLSearchParams({ q: text, kind, limit: 8 })}`, { signal });
  try {
    return (await Promise.all([search("user"), search("item")])).flatMap(({ results }) => results);
  } catch (error) {
    if (!signal.aborted) at("query-problem").replaceChildren(problemOf(error));
    return null;
  }
}

function loadInfo() {
  const loading = ask("info");
  info = loading.catch(() => ({})); // a list without it is still a list
  loading.then(drawInfo, (error) => error.status === 401 && fail(error, readView()));
}

function drawInfo({ model, dataset, items, users, attributes = {}, pictures }) {
  document.body.classList.toggle("pictureless", pictures === false);
  const counts = `${users.toLocaleString("en")} users · ${items.toLocaleString("en")} items`;
  at("facts").textContent = `${model} on ${dataset} · ${counts}`;
  const names = Object.keys(attributes).slice(0, 12).flatMap((name) => [make("code", {}, name), " "]);
  at("where-help").replaceChildren(...(names.length ? ["Attributes: ", ...names] : []));
}

offer({ find: findOptions, choose: (option) => (location.hash = hashOf(option)), announce });
fields.k.addEventListener("change", () => apply("k"));
fields.where.addEventListener("change", () => apply("where"));
at("controls").addEventListener("submit", (event) => event.preventDefault()); // changes are applied by then
at("back").append(button("Back", () => history.back(), "plain"));
at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would replace that of the list
  at("results").focus();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(fields.key.value);
  at("access").open = false;
  restart();
});
addEventListener("popstate", () => {
  depth = history.state?.depth ?? depth + 1; // a followed link comes without a state
  history.replaceState({ depth }, "");
  show({ moved: document.activeElement !== fields.query }); // who searches goes on searching
});
fields.key.value = currentKey();
history.replaceState({ depth }, "");
restart();
