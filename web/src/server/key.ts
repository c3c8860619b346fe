// The API key that the reader has given. It lives as long as the tab, unless the reader wants it kept.

import { read, SCOPE, write } from "../preferences";
import { Store } from "../store";

const NAME = "key";

function initial(): string | null {
  try {
    return sessionStorage.getItem(`${SCOPE}:${NAME}`) ?? read<string | null>(NAME, null);
  } catch {
    return null;
  }
}

export const key = new Store<string | null>(initial());
/** Whether the server has refused a request for its key: the page asks for one. */
export const keyWanted = new Store(false);

/** Uses this key from now on. `keep`: also at later visits. */
export function takeKey(value: string, keep: boolean): void {
  try {
    sessionStorage.setItem(`${SCOPE}:${NAME}`, value);
  } catch {
    // The key is asked for again after a reload.
  }
  write(NAME, keep ? value : null);
  key.value = value;
  keyWanted.value = false;
}

/** Forgets the key, here and in the browser. */
export function forgetKey(): void {
  try {
    sessionStorage.removeItem(`${SCOPE}:${NAME}`);
  } catch {
    // There was nothing to forget.
  }
  write(NAME, null);
  key.value = null;
}
