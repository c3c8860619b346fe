// The served models, every few seconds, and what is done with them: loading, unloading, pulling.

import { read, write } from "../preferences";
import { ask, jsonPost, send } from "../server/request";
import { Store } from "../store";
import type { Models, PullStatus } from "./answers";
import { poll } from "./polling";

const SECONDS = 2;
const KEPT = "pull";

export const models = new Store<Models | null>(null);

async function look(signal?: AbortSignal): Promise<void> {
  models.value = await ask<Models>("stats/models", undefined, signal);
}

/** Follows the models until the returned function is called. */
export function followModels(): () => void {
  const name = read<string | null>(KEPT, null);
  // A pull ends when no client follows it. After a reload the page goes on with its own.
  if (name !== null && pull.value?.ended !== false) void startPull(name);
  return poll(SECONDS, look);
}

/** Loads or unloads the model. Raises ServerError and Unreachable. */
export async function change(action: "load" | "unload", model: string): Promise<void> {
  await ask(`models/${action}`, { model });
  await look();
}

export interface PullShown {
  name: string;
  /** The registry's words for what happens now. */
  status: string;
  /** The part of the file that is there; null: not known. */
  part: number | null;
  total: number | null;
  ended: boolean;
  error: string | null;
}

/** The pull that this page follows, or has followed last. */
export const pull = new Store<PullShown | null>(null);
let stopping: AbortController | null = null;

/** Pulls a model, and shows its progress in `pull`. */
export async function startPull(name: string): Promise<void> {
  stopping?.abort();
  const controller = new AbortController();
  stopping = controller;
  write(KEPT, name);
  const show = (more: Partial<PullShown>) => {
    if (controller.signal.aborted) return;
    const now = pull.value ?? { name, status: "", part: null, total: null, ended: false, error: null };
    pull.value = { ...now, ...more };
  };
  pull.value = { name, status: "", part: null, total: null, ended: false, error: null };
  try {
    const response = await send("api/pull", { ...jsonPost({ model: name }), signal: controller.signal });
    for await (const line of lines(response)) {
      const status = JSON.parse(line) as PullStatus;
      if (status.error !== undefined) show({ error: status.error });
      else {
        const { total, completed } = status;
        show({ status: status.status ?? "", part: total ? (completed ?? 0) / total : null, total: total ?? null });
      }
    }
  } catch (error) {
    show({ error: error instanceof Error && error.message !== "" ? error.message : "" });
  }
  if (controller.signal.aborted) return;
  show({ ended: true });
  write(KEPT, null);
  await look().catch(() => undefined);
}

/** Stops following the pull, which ends it where no other client follows. What was downloaded stays on the server. */
export function stopPull(): void {
  stopping?.abort();
  write(KEPT, null);
  pull.value = null;
}

async function* lines(response: Response): AsyncGenerator<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (reader !== undefined) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part !== "") yield part;
  }
  if (rest !== "") yield rest;
}
