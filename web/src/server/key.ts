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
/** Whether the page asks for a key, because the server has refused a request; and whether the last time gave one. */
export const keyWanted = new Store({ open: false, given: false });

/** Asks the reader for a key. */
export function wantKey(): void {
  if (!keyWanted.value.open) keyWanted.value = { open: true, given: false };
}

/** The reader gives no key. */
export function refuseKey(): void {
  if (keyWanted.value.open) keyWanted.value = { open: false, given: false };
}

/** Uses this key from now on. `keep`: also at later visits. */
export function takeKey(value: string, keep: boolean): void {
  try {
    sessionStorage.setItem(`${SCOPE}:${NAME}`, value);
  } catch {
    // The key is asked for again after a reload.
  }
  write(NAME, keep ? value : null);
  key.value = value;
  keyWanted.value = { open: false, given: true };
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
