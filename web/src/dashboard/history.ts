// The history that the charts draw: what the server remembers, and what has come since.

import type { History } from "./answers";

/** Seconds that charts show. */
export const SHOWN_SECONDS = 300;
/** Seconds without a point from which a line is broken: the server was away. */
export const GAP_SECONDS = 3;

const COLUMNS = [
  "time",
  "generated",
  "prompt",
  "running",
  "waiting",
  "kv_part",
  "first_token_p50",
  "first_token_p99",
  "inter_token_p50",
  "inter_token_p99",
] as const satisfies (keyof History)[];

export function emptyHistory(): History {
  return Object.fromEntries(COLUMNS.map((name) => [name, []])) as unknown as History;
}

/** `known` with the newer points of `added`, without those that are too old to be shown. */
export function merged(known: History, added: History): History {
  const last = known.time.at(-1) ?? 0;
  const from = added.time.findIndex((time) => time > last);
  if (from < 0) return known;
  const oldest = (added.time.at(-1) ?? 0) - SHOWN_SECONDS - GAP_SECONDS;
  const shown = known.time.findIndex((time) => time >= oldest);
  const start = shown < 0 ? known.time.length : shown;
  const join = (name: keyof History) => [...known[name].slice(start), ...added[name].slice(from)];
  return Object.fromEntries(COLUMNS.map((name) => [name, join(name)])) as unknown as History;
}
