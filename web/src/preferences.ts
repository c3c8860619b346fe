// What the browser keeps for this page between visits: small choices, as JSON in localStorage.

import { Store } from "./store";

// Pages of several servers may have one origin, behind path prefixes. Each has values of its own.
export const SCOPE = `tailrace:${location.pathname.replace(/\/v1\/?$/, "/")}`;

/** The value kept under `name`, or `otherwise` where there is none or the browser keeps nothing. */
export function read<T>(name: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(`${SCOPE}:${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

/** Keeps `value` under `name`; null forgets it. */
export function write(name: string, value: unknown): void {
  try {
    if (value === null) localStorage.removeItem(`${SCOPE}:${name}`);
    else localStorage.setItem(`${SCOPE}:${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing still shows the page; the choice ends with the visit.
  }
}

/** A store whose value is kept under `name`. */
export function keptStore<T>(name: string, otherwise: T): Store<T> {
  const store = new Store<T>(read(name, otherwise));
  store.subscribe(() => write(name, store.value));
  return store;
}
