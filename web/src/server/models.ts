// The models that the server can chat with.

import { Store } from "../store";
import { key } from "./key";
import { ask } from "./request";

export interface Model {
  id: string;
  /** "loaded", "unloaded", "loading" or another word of the server's. */
  status: string;
  /** Tokens that a request may have; null until the model is loaded. */
  context: number | null;
}

interface ModelList {
  data: { id: string; status?: { value?: string }; context_length?: number }[];
  models?: { name: string; capabilities?: string[] }[];
}

/** Empty until the server has answered. The first is the server's default. */
export const models = new Store<readonly Model[]>([]);

/** Asks the server for its models. A failure leaves those that are known: the next request shows its reason. */
export async function loadModels(): Promise<void> {
  let list: ModelList;
  try {
    list = await ask<ModelList>("v1/models");
  } catch {
    return;
  }
  const silent = (list.models ?? []).filter(({ capabilities }) => capabilities && !capabilities.includes("completion"));
  const names = new Set(silent.map(({ name }) => name));
  models.value = list.data
    .filter(({ id }) => !names.has(id))
    .map(({ id, status, context_length }) => ({
      id,
      status: status?.value ?? "loaded",
      context: context_length ?? null,
    }));
}

key.subscribe(() => void loadModels());
