// Whether the server can be reached. While it can't, the page asks again until it answers.

import { Store } from "../store";

const SECONDS_BETWEEN = 2;

export const reachable = new Store(true);
let timer: ReturnType<typeof setTimeout> | null = null;

/** A request has failed without an answer. */
export function markLost(): void {
  reachable.value = false;
  timer ??= setTimeout(probe, SECONDS_BETWEEN * 1000);
}

/** The server has answered, whatever it said. */
export function markReached(): void {
  reachable.value = true;
  if (timer !== null) clearTimeout(timer);
  timer = null;
}

async function probe(): Promise<void> {
  timer = null;
  try {
    const answer = await fetch("health/live", { cache: "no-store" });
    if (answer.ok) markReached();
    else markLost();
  } catch {
    markLost();
  }
}
