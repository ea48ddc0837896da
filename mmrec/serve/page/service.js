// Requests to the service, the key they carry, and what it said about items.

const KEY = "mmrec.key";

/** An answer that is no result, in the three parts of every error of mmrec. */
export class Problem extends Error {
  constructor(status, { expected, found, do: step }, wait = null) {
    super(found);
    Object.assign(this, { status, expected, found, step, wait });
  }
}

let key = readKey();

function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser that forbids storage still shows a service without keys
  }
}

export const currentKey = () => key;

export function useKey(text) {
  key = text.replace(/[^\x21-\x7e]/g, ""); // spaces and the like come along when a key is pasted; no header may hold them
  known.clear();
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // forbidden: the key lasts until the next reload
  }
}

/** The JSON answer to a GET, or to a POST when there is a body. Paths are relative: the page may live below a prefix. */
export async function ask(path, { body, signal } = {}) {
  const response = await send(path, body, signal);
  const answer = await response.json().catch(() => null);
  signal?.throwIfAborted();
  if (!response.ok || answer === null) {
    throw new Problem(response.status, answer?.error ?? unreadable(response), response.headers.get("Retry-After"));
  }
  return answer;
}

async function send(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, signal, credentials: "same-origin" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { expected: "an answer of the service", found: "no connection", do: "check that it runs, then try again" });
  }
}

function unreadable({ status }) {
  return { expected: "an answer of mmrec in JSON", found: `something else, with status ${status}`, do: "ask whoever runs the service" };
}

const itemPath = (id) => `items/${encodeURIComponent(id)}`;
const known = new Map(); // finished descriptions only, so that an aborted one is asked for again
const MOST_KNOWN = 2000;

/** A function from an item's id to {title, attributes, image}; asked once per item, and given up with the signal. */
export function describer(info, signal) {
  const pending = new Map();
  const load = async (id) => {
    const [{ attributes, image }, { attributes: kinds = {} }] = await Promise.all([ask(itemPath(id), { signal }), info]);
    const item = { title: titleOf(id, attributes, kinds), attributes, image };
    if (known.size >= MOST_KNOWN) known.clear();
    known.set(id, item);
    return item;
  };
  return (id) => {
    if (known.has(id)) return known.get(id);
    if (!pending.has(id)) pending.set(id, load(id));
    return pending.get(id);
  };
}

/** The first text attribute, as everywhere in mmrec; the id where it is empty. */
export function titleOf(id, attributes, kinds) {
  const name = Object.keys(kinds).find((attribute) => kinds[attribute] === "text") ?? "title";
  return String(attributes?.[name] ?? "").trim().slice(0, 80) || id;
}

/** An element that shows an item's picture. */
export async function pictureOf(id, signal) {
  if (!key) return imageOf(id);
  const response = await send(`${itemPath(id)}/image`, null, signal);
  if (!response.ok) throw new Problem(response.status, unreadable(response));
  const bitmap = await createImageBitmap(await response.blob());
  // an <img> cannot send the key, and the page's security policy forbids blob: addresses; a canvas needs neither
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

async function imageOf(id) {
  const image = Object.assign(new Image(), { alt: "", decoding: "async", src: `${itemPath(id)}/image` });
  await image.decode(); // fails for what is no picture, and the placeholder stays
  return image;
}
