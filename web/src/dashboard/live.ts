// The newest answer of the server, once a second, and the history of the charts.

import { useEffect } from "preact/hooks";
import { ask, ServerError } from "../server/request";
import { Store } from "../store";
import type { History, Live } from "./answers";
import { emptyHistory, merged } from "./history";
import { poll } from "./polling";

const SECONDS = 1;

export interface Shown {
  live: Live;
  history: History;
  /** When the server was started again under the open page, in milliseconds of Unix time; null: it wasn't. */
  restartedAt: number | null;
}

/** What the view shows; null before the first answer. */
export const shown = new Store<Shown | null>(null);
/** Whether the server wants another key than the reader has given. */
export const needsKey = new Store(false);
/** The history alone, which is there a second earlier. */
export const history = new Store<History>(emptyHistory());

async function look(signal: AbortSignal): Promise<void> {
  if (history.value.time.length === 0)
    history.value = merged(emptyHistory(), await ask("stats/history", undefined, signal));
  const after = history.value.time.at(-1) ?? 0;
  const live = await ask<Live>(`stats/live?after=${after}`, undefined, signal);
  const before = shown.value;
  history.value = merged(history.value, live.history);
  const restarted = before !== null && before.live.started !== live.started;
  shown.value = {
    live,
    history: history.value,
    restartedAt: restarted ? live.started * 1000 : (before?.restartedAt ?? null),
  };
}

async function lookWithKey(signal: AbortSignal): Promise<void> {
  try {
    await look(signal);
    needsKey.value = false;
  } catch (error) {
    needsKey.value ||= error instanceof ServerError && error.status === 401;
    throw error;
  }
}

/** Has `shown` follow the server while the component is there. */
export function useLive(): void {
  useEffect(() => poll(SECONDS, lookWithKey), []);
}

/** The reader has seen that the server was restarted. */
export function dismissRestart(): void {
  if (shown.value !== null) shown.value = { ...shown.value, restartedAt: null };
}
