// What is shown follows from the address: #user=… or #item=… with k and where, so that reload, back and links work.

import { blanks, cardOf, make, problemOf, profileOf, rowOf } from "./elements.js";
import { offer } from "./search.js";
import { ask, currentKey, describer, Problem, titleOf, useKey } from "./service.js";

const DEFAULT_K = 10;
const FIRST_HISTORY = 12; // rows shown before the button that shows all
const at = (id) => document.getElementById(id);
const fields = { query: at("query"), k: at("k"), where: at("where"), key: at("key") };

let info = Promise.resolve({}); // settled again whenever the key changes
let request = new AbortController(); // of the list on its way; a newer one aborts it
let about = new AbortController(); // of what stands beside it, which outlives a change of k and filter
let shown = { kind: null, id: null };
let edited = null; // the field changed since the last good answer: where an error of input belongs
let depth = 0; // pages of ours behind this one: whether there is a way back

const announce = (text) => (at("live").textContent = text);

// --- the address ---

function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const kind = ["user", "item"].find((name) => given.has(name)) ?? null;
  const k = Number(given.get("k") ?? DEFAULT_K);
  return { kind, id: given.get(kind), k: Number.isInteger(k) ? k : DEFAULT_K, where: given.get("where") ?? "" };
}

function hashOf({ kind, id, k, where }) {
  const given = new URLSearchParams(kind ? { [kind]: id } : {});
  if (k !== DEFAULT_K) given.set("k", k);
  if (where) given.set("where", where);
  return `#${given}`;
}

function go(change) {
  location.hash = hashOf({ ...readView(), ...change });
}

/** Another k or filter replaces the entry: back leads to the list before, not through every value tried. */
function apply(field) {
  const k = fields.k.value === "" ? DEFAULT_K : Number(fields.k.value);
  const view = { ...readView(), k, where: fields.where.value.trim() };
  if (hashOf(view) === hashOf(readView())) return;
  edited = field;
  history.replaceState(history.state, "", hashOf(view));
  show();
}

// --- showing ---

async function show({ arriving = false } = {}) {
  request.abort();
  request = new AbortController();
  const view = readView();
  const before = shown;
  const changed = view.kind !== before.kind || view.id !== before.id;
  shown = { kind: view.kind, id: view.id };
  fill(view);
  clearProblems();
  at("start").hidden = view.kind !== null;
  at("view").hidden = view.kind === null;
  document.title = view.kind ? `${view.id} – mmrec` : "mmrec";
  if (changed) about.abort();
  if (!view.kind) return showStart();
  if (changed) prepare(view);
  if (changed && arriving) at("list-title").focus({ preventScroll: true });
  await showList(view, request.signal);
  if (changed && arriving) returnTo(before.id);
}

function fill({ kind, id, k, where }) {
  if (kind) fields.query.value = id;
  fields.k.value = k;
  fields.where.value = where;
}

function prepare(view) {
  about = new AbortController();
  at("back").hidden = depth === 0;
  at("view").classList.remove("alone");
  at("list-title").textContent = view.kind === "user" ? `Recommended for ${view.id}` : `Similar to ${view.id}`;
  at("summary").textContent = "Loading…";
  at("cards").replaceChildren(...blanks(view.k));
  at("about-title").textContent = view.kind === "user" ? "History" : "Item";
  at("about-content").replaceChildren(make("p", "quiet", "Loading…"));
  showAbout(view, about.signal);
  scrollTo(0, 0);
}

const contextOf = (signal) => ({ describe: describer(info, signal), signal, href: (id) => hashOf({ ...readView(), kind: "item", id }) });

async function showList(view, signal) {
  at("list").setAttribute("aria-busy", "true");
  try {
    const body = { [view.kind]: view.id, k: view.k, attributes: true };
    if (view.where) body.where = view.where;
    if (view.kind === "user") body.explain = true;
    const answer = await ask(view.kind === "user" ? "recommend" : "similar", { body, signal });
    const { attributes: kinds = {} } = await info;
    signal.throwIfAborted();
    edited = null;
    drawList(view, answer, kinds, signal);
  } catch (error) {
    if (!signal.aborted) fail(error, view);
  } finally {
    if (!signal.aborted) at("list").setAttribute("aria-busy", "false");
  }
}

function drawList(view, { items, bundle }, kinds, signal) {
  const context = contextOf(signal);
  const cards = items.map((entry, place) => cardOf(entry, place, titleOf(entry.item, entry.attributes, kinds), context));
  at("cards").replaceChildren(...cards);
  const count = `${items.length} ${items.length === 1 ? "item" : "items"}`;
  const filter = view.where ? ` where ${view.where}` : "";
  const none = view.where ? "No item passes the filter." : "The service has no item to show here.";
  at("summary").textContent = items.length ? `${count}${filter} · bundle ${bundle}` : none;
  announce(items.length ? `${count}: ${at("list-title").textContent}` : none);
}

async function showAbout(view, signal) {
  const context = contextOf(signal);
  try {
    const content = view.kind === "user" ? await historyOf(view.id, context) : await itemOf(view.id, context);
    if (!signal.aborted) at("about-content").replaceChildren(...content);
  } catch (error) {
    if (!signal.aborted) at("about-content").replaceChildren(make("p", "quiet", `Not there: ${error.message}`));
  }
}

async function itemOf(id, { describe, signal }) {
  const item = await describe(id);
  if (!signal.aborted) at("list-title").textContent = `Similar to ${item.title}`;
  return profileOf(id, item, signal);
}

async function historyOf(id, context) {
  const { history: items } = await ask(`users/${encodeURIComponent(id)}`, context);
  if (!items.length) return [make("p", "quiet", "No history in this bundle.")];
  const newest = items.toReversed();
  const list = make("ol", "rows", ...newest.slice(0, FIRST_HISTORY).map((item) => rowOf(item, context)));
  const note = make("p", "quiet", `${items.length === 1 ? "1 item" : `${items.length} items, newest first`}`);
  if (newest.length <= FIRST_HISTORY) return [note, list];
  const more = make("button", "plain", `Show all ${newest.length}`);
  more.type = "button";
  more.addEventListener("click", () => {
    const rest = newest.slice(FIRST_HISTORY).map((item) => rowOf(item, context));
    list.append(...rest);
    more.remove();
    rest[0].querySelector("a").focus(); // the button that had it is gone
  });
  return [note, list, more];
}

async function showStart() {
  document.body.classList.remove("busy");
  at("examples").replaceChildren();
  const { signal } = request;
  try {
    const { results } = await ask("search?q=&kind=user&limit=6", { signal });
    const links = results.map(({ id }) => Object.assign(make("a", "example", id), { href: hashOf({ ...readView(), kind: "user", id }) }));
    if (links.length && !signal.aborted) at("examples").append(make("p", "quiet", "For example"), make("p", "", ...links));
  } catch (error) {
    if (!signal.aborted && error.status === 401) fail(error, readView());
  }
}

/** After following a link or going back: the card left before if it is here, else the heading, so that Tab goes on there. */
function returnTo(item) {
  const link = item && at("cards").querySelector(`[data-item="${CSS.escape(item)}"] h3 a`);
  link?.focus();
}

// --- problems ---

function clearProblems() {
  for (const name of Object.keys(fields)) {
    at(`${name}-problem`).replaceChildren();
    fields[name].removeAttribute("aria-invalid");
  }
  at("list-problem").replaceChildren();
}

/** Put an error beside the field it speaks of, or in the place of the list. */
function fail(error, view) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401) at("access").open = true;
  const field = fieldOf(error, view);
  if (field) fields[field].setAttribute("aria-invalid", "true");
  const place = field ?? "list";
  at(`${place}-problem`).replaceChildren(problemOf(error, field ? null : () => show()));
  if (at("cards").querySelector(".blank") || !field) clearList(field);
}

function fieldOf({ status }, view) {
  if (status === 401) return "key";
  if (status !== 400) return null;
  return edited ?? (view.where ? "where" : null);
}

/** Old results stay beside a mistyped filter; where there are none, nothing pretends to load. */
function clearList(field) {
  at("cards").replaceChildren();
  at("summary").textContent = field ? "Nothing to show yet." : "";
  at("view").classList.toggle("alone", !field);
}

// --- wiring ---

async function findOptions(text, signal) {
  at("query-problem").replaceChildren();
  const kinds = ["user", "item"].map((kind) => ask(`search?${new URLSearchParams({ q: text, kind, limit: 8 })}`, { signal }));
  return (await Promise.all(kinds)).flatMap(({ results }) => results);
}

function loadInfo() {
  const loading = ask("info");
  info = loading.catch(() => ({})); // a list without /info is still a list
  loading.then(drawInfo, (error) => error.status === 401 && fail(error, readView()));
}

function drawInfo({ model, dataset, items, users, attributes = {} }) {
  const count = (value) => Number(value).toLocaleString("en");
  at("facts").textContent = `${model} on ${dataset} · ${count(users)} users · ${count(items)} items`;
  const names = Object.keys(attributes).slice(0, 12).flatMap((name) => [make("code", "", name), " "]);
  at("where-help").replaceChildren(...(names.length ? ["Attributes: ", ...names] : []));
}

function start() {
  offer({
    input: fields.query,
    popup: at("suggestions"),
    list: at("options"),
    nothing: at("nothing"),
    find: findOptions,
    choose: ({ kind, id }) => go({ kind, id }),
    failed: (error) => at("query-problem").replaceChildren(problemOf(error)),
    announce,
  });
  fields.k.addEventListener("change", () => apply("k"));
  fields.where.addEventListener("change", () => apply("where"));
  at("controls").addEventListener("submit", (event) => event.preventDefault()); // leaving the field has applied it
  at("back").firstElementChild.addEventListener("click", () => history.back());
  at("skip").addEventListener("click", (event) => {
    event.preventDefault(); // its address would replace the one of the list
    at("results").focus();
  });
  fields.key.value = currentKey();
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(fields.key.value);
    at("access").open = false;
    shown = { kind: null, id: null };
    loadInfo();
    show();
  });
  addEventListener("popstate", () => {
    depth = history.state?.depth ?? depth + 1;
    history.replaceState({ depth }, "");
    show({ arriving: document.activeElement !== fields.query }); // who searches goes on searching
  });
  depth = history.state?.depth ?? 0;
  history.replaceState({ depth }, "");
  loadInfo();
  show();
}

start();
