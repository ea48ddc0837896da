// Requests to the service, the key they carry, and what it said about items.

const KEY = "mmrec.key";
const known = new Map(); // what the service said about items
const itemPath = (id) => `items/${encodeURIComponent(id)}`;

/** An answer that is no result, in the three parts of every error of mmrec. */
export class Problem extends Error {
  constructor(status, { expected, found, do: step }, wait = null) {
    super(found);
    Object.assign(this, { status, expected, found, step, wait });
  }
}

export const currentKey = () => sessionStorage.getItem(KEY) ?? "";

export function useKey(text) {
  sessionStorage.setItem(KEY, text.replace(/[^\x21-\x7e]/g, "")); // what is pasted may end in what no header may hold
  known.clear();
}

/** The JSON answer to a GET, or to a POST where there is a body. A relative path: the page may live below a prefix. */
export async function ask(path, { body, signal } = {}) {
  const response = await send(path, { body, signal });
  const answer = await response.json().catch(() => null);
  signal?.throwIfAborted();
  if (response.ok && answer) return answer;
  const found = `something else, with status ${response.status}`;
  const unreadable = { expected: "an answer of mmrec in JSON", found, do: "ask whoever runs the service" };
  throw new Problem(response.status, answer?.error ?? unreadable, response.headers.get("Retry-After"));
}

async function send(path, { body, signal }) {
  const headers = currentKey() ? { Authorization: `Bearer ${currentKey()}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { expected: "an answer", found: "no connection", do: "see whether the service runs" });
  }
}

/** A function from an item's id to {title, attributes, image}; asks once per item, and gives up with the signal. */
export function describer(info, signal) {
  const pending = new Map(); // apart from what is known: a request given up must not spoil the next view's
  return async (id) => {
    if (known.has(id)) return known.get(id);
    if (!pending.has(id)) pending.set(id, ask(itemPath(id), { signal }));
    const [{ attributes, image }, { title: name }] = await Promise.all([pending.get(id), info]);
    known.set(id, { title: titleOf(id, attributes, name), attributes, image });
    return known.get(id);
  };
}

/** The attribute that names items; the id where it is empty. */
export function titleOf(id, attributes, name) {
  return String(attributes?.[name] ?? "").trim().slice(0, 80) || id;
}

/** An element that shows an item's picture; fails for what is no picture. */
export async function pictureOf(id, signal) {
  const path = `${itemPath(id)}/image`;
  if (!currentKey()) {
    const image = Object.assign(new Image(), { alt: "", src: path });
    return image.decode().then(() => image);
  }
  // an <img> cannot send the key, and the page's security policy forbids blob: addresses; a canvas needs neither
  const bitmap = await createImageBitmap(await (await send(path, { signal })).blob());
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}
