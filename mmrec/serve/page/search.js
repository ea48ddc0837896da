// The search field: a combobox with a list, by the ARIA authoring practices (list autocomplete, manual selection).

import { make } from "./elements.js";

const PAUSE = 120; // milliseconds without a key before the service is asked
const GROUPS = { user: "Users", item: "Items" };

/**
 * Make the field offer what `find(text, signal)` finds as [{kind, id, title}], users first, or null where it failed.
 * `choose(option)` is called with the one taken, `announce(text)` with news for who cannot see the list.
 */
export function offer({ find, choose, announce }) {
  const [input, popup, list, nothing] = document.querySelectorAll("#query, #suggestions, #options, #nothing");
  let found = { text: null, options: [], nodes: [] };
  let active = -1;
  let request = new AbortController();
  let timer = 0;

  function setActive(index) {
    found.nodes[active]?.setAttribute("aria-selected", "false");
    active = index;
    found.nodes[active]?.setAttribute("aria-selected", "true");
    found.nodes[active]?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", found.nodes[active]?.id ?? "");
  }

  function stop() {
    clearTimeout(timer);
    request.abort();
    request = new AbortController();
  }

  function close() {
    stop();
    setActive(-1);
    popup.hidden = true;
    input.setAttribute("aria-expanded", "false");
  }

  /** Ask for what the field holds and show it; false where there is nothing, or a newer text took over. */
  async function search() {
    stop();
    const { signal } = request;
    const text = input.value.trim();
    const options = await find(text, signal);
    if (signal.aborted) return false;
    setActive(-1);
    const nodes = (options ?? []).map((option, place) => optionNode(option, place, () => take(option)));
    found = { text, options: options ?? [], nodes };
    list.replaceChildren(...groupsOf(found));
    nothing.textContent = options?.length === 0 ? `Nothing found for “${text}”.` : "";
    popup.hidden = false;
    input.setAttribute("aria-expanded", String(nodes.length > 0));
    announce(nodes.length ? `${nodes.length} found, use the arrow keys` : nothing.textContent);
    return nodes.length > 0;
  }

  async function move(step) {
    if ((popup.hidden || !found.nodes.length) && !(await search())) return;
    const count = found.nodes.length;
    setActive(active < 0 && step < 0 ? count - 1 : (active + step + count) % count);
  }

  /** Take the active option, else the one with this id, else the first; who presses Enter at once need not wait. */
  async function accept() {
    const text = input.value.trim();
    if (active < 0 && (!text || ((popup.hidden || found.text !== text) && !(await search())))) return;
    const option = found.options[active] ?? found.options.find(({ id }) => id === text) ?? found.options[0];
    if (option) take(option);
  }

  function take(option) {
    close();
    choose(option);
  }

  const keys = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    Enter: accept,
    Escape: () => (popup.hidden ? (input.value = "") : close()),
  };
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.isComposing) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("input", () => {
    setActive(-1); // what was active belongs to the text before
    clearTimeout(timer);
    if (input.value.trim()) timer = setTimeout(search, PAUSE);
    else close();
  });
  input.addEventListener("blur", close);
  popup.addEventListener("pointerdown", (event) => event.preventDefault()); // or the field is left before the click
}

function groupsOf({ options, nodes }) {
  return Object.entries(GROUPS).flatMap(([kind, label]) => {
    const members = nodes.filter((_, place) => options[place].kind === kind);
    const heading = make("div", { class: "group", "aria-hidden": true }, label);
    return members.length ? [make("div", { role: "group", "aria-label": label }, heading, ...members)] : [];
  });
}

function optionNode({ id, title }, place, take) {
  const node = make("div", { class: "option", role: "option", id: `option-${place}`, "aria-selected": false });
  node.append(make("span", {}, title || id), " ", make("span", { class: "quiet" }, title ? id : ""));
  node.addEventListener("click", take);
  return node;
}
