// Waiting for a store's value.

import type { Store } from "./store";

/** Returns when `holds` is true of the store's value. An abort of `signal` raises its reason. */
export function until<T>(store: Store<T>, holds: (value: T) => boolean, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (!holds(store.value)) return;
      end();
      resolve();
    };
    const abort = () => {
      end();
      reject(signal.reason);
    };
    const unsubscribe = store.subscribe(look);
    const end = () => {
      unsubscribe();
      signal.removeEventListener("abort", abort);
    };
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
    else look();
  });
}

/** Returns after so many seconds. An abort of `signal` raises its reason. */
export function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
