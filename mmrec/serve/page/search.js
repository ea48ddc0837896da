// The search field: a combobox with a list, by the ARIA authoring practices (list autocomplete, manual selection).

import { make } from "./elements.js";

const PAUSE = 120; // milliseconds without a key before the service is asked
const GROUPS = { user: "Users", item: "Items" };

/**
 * Make a field offer what `find(text, signal)` finds as [{kind, id, title}].
 * `choose(option)` is called with the one taken, `failed(error)` when the search failed, `announce(text)` with news.
 */
export function offer({ input, popup, list, nothing, find, choose, failed, announce }) {
  let found = { text: null, options: [] };
  let active = -1;
  let request = new AbortController();
  let timer = 0;

  const isOpen = () => input.getAttribute("aria-expanded") === "true";

  function close() {
    clearTimeout(timer);
    request.abort();
    popup.hidden = true;
    input.setAttribute("aria-expanded", "false");
    setActive(-1);
  }

  function setActive(index) {
    active = index;
    const nodes = [...list.querySelectorAll("[role=option]")];
    nodes.forEach((node, place) => node.setAttribute("aria-selected", String(place === index)));
    if (index < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", nodes[index].id);
    return nodes[index].scrollIntoView({ block: "nearest" });
  }

  function take(option) {
    close();
    input.value = option.id;
    found = { text: null, options: [] };
    choose(option);
  }

  function draw() {
    list.replaceChildren(...groupsOf(found.options, take));
    nothing.hidden = found.options.length > 0;
    nothing.textContent = `Nothing found for “${found.text}”.`;
    popup.hidden = false;
    input.setAttribute("aria-expanded", String(found.options.length > 0));
    setActive(-1);
    const { length } = found.options;
    announce(length ? `${length} found, use the arrow keys` : nothing.textContent);
  }

  /** Ask for what the field holds; false when there is nothing to show, or a newer text took over. */
  async function search() {
    clearTimeout(timer);
    request.abort();
    request = new AbortController();
    const { signal } = request;
    const text = input.value.trim();
    try {
      const options = await find(text, signal);
      if (signal.aborted) return false;
      found = { text, options: Object.keys(GROUPS).flatMap((kind) => options.filter((option) => option.kind === kind)) };
      draw();
      return found.options.length > 0;
    } catch (error) {
      if (signal.aborted) return false;
      list.replaceChildren();
      nothing.hidden = true;
      popup.hidden = false;
      failed(error);
      return false;
    }
  }

  async function move(step) {
    if (!isOpen() && !(await search())) return;
    const count = found.options.length;
    setActive(active < 0 && step < 0 ? count - 1 : (active + step + count) % count);
  }

  /** Take the active option, else the one with exactly this id, else the first. Who types and presses Enter need not wait. */
  async function accept() {
    if (active >= 0) return take(found.options[active]);
    const text = input.value.trim();
    if (!text || (found.text !== text && !(await search()))) return undefined;
    const option = found.options.find(({ id }) => id === text) ?? found.options[0];
    return option && take(option);
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
    clearTimeout(timer);
    if (input.value.trim()) timer = setTimeout(search, PAUSE);
    else close();
  });
  input.addEventListener("blur", close);
  popup.addEventListener("pointerdown", (event) => event.preventDefault()); // or the field loses focus before the click
}

function groupsOf(options, take) {
  const nodes = options.map((option, place) => optionNode(option, place, take));
  return Object.entries(GROUPS).flatMap(([kind, label]) => {
    const members = nodes.filter((_, place) => options[place].kind === kind);
    if (!members.length) return [];
    const heading = make("div", "group", label);
    heading.id = `group-${kind}`;
    const group = make("div", "", heading, ...members);
    group.setAttribute("role", "group");
    group.setAttribute("aria-labelledby", heading.id);
    return [group];
  });
}

function optionNode(option, place, take) {
  const node = make("div", "option", make("span", "name", option.title || option.id));
  if (option.title) node.append(" ", make("span", "quiet", option.id));
  node.id = `option-${place}`;
  node.setAttribute("role", "option");
  node.setAttribute("aria-selected", "false");
  node.addEventListener("click", () => take(option));
  return node;
}
