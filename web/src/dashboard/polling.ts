// Asks the server again and again while somebody looks: not in a hidden tab, and not while a key is missing.

import { key } from "../server/key";
import { ServerError } from "../server/request";

/** Calls `ask` every `seconds`, until the returned function is called. Two calls never run at the same time. */
export function poll(seconds: number, ask: (signal: AbortSignal) => Promise<void>): () => void {
  let timer: ReturnType<typeof setTimeout> | null = null;
  let running: AbortController | null = null;
  let ended = false;
  let refused = false;

  const look = async () => {
    timer = null;
    if (ended || document.hidden || running !== null) return;
    const controller = new AbortController();
    running = controller;
    const began = performance.now();
    refused = false;
    try {
      await ask(controller.signal);
    } catch (error) {
      // An unreachable server is shown by the frame. A key that is refused is asked for, and a new one goes on.
      refused = error instanceof ServerError && error.status === 401;
    }
    running = null;
    const spent = (performance.now() - began) / 1000;
    // Behind a slow line there is a pause, too, or an open page would be most of its traffic.
    if (!ended && !refused) timer = setTimeout(look, Math.max(0.25, seconds - spent) * 1000);
  };
  const again = () => {
    if (timer !== null) clearTimeout(timer);
    void look();
  };
  const becameVisible = () => {
    if (!refused) again();
  };
  document.addEventListener("visibilitychange", becameVisible);
  const unsubscribe = key.subscribe(again);
  void look();
  return () => {
    ended = true;
    if (timer !== null) clearTimeout(timer);
    running?.abort();
    document.removeEventListener("visibilitychange", becameVisible);
    unsubscribe();
  };
}
