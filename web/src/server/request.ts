// Requests to the server that the page came from, with the reader's key. Errors have the server's own words.

import { markLost, markReached } from "./connection";
import { key, wantKey } from "./key";

/** An error answer. `message` is the server's; `retryAfter` has the seconds after which it can be tried again. */
export class ServerError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string | null,
    readonly retryAfter: number | null,
  ) {
    super(message);
  }
}

/** The server couldn't be reached, or the connection broke: `begun` says whether the answer had begun by then. */
export class Unreachable extends Error {
  constructor(readonly begun: boolean) {
    super();
  }
}

interface ErrorBody {
  error?: { message?: string; code?: string | null } | string;
}

/** Sends a request to `path`, which is relative to the page (`v1/models`). Raises ServerError and Unreachable; an abort
 * passes through. */
export async function send(path: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  if (key.value !== null) headers.set("authorization", `Bearer ${key.value}`);
  let response: Response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    markLost();
    throw new Unreachable(false);
  }
  markReached();
  if (response.ok) return response;
  if (response.status === 401) wantKey();
  throw await serverError(response);
}

/** The JSON of a GET, or of a POST where there is a `body`. */
export async function ask<T>(path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const options: RequestInit = signal === undefined ? {} : { signal };
  const response = await send(path, body === undefined ? options : { ...options, ...jsonPost(body) });
  return (await response.json()) as T;
}

/** The options of a POST with this JSON. */
export function jsonPost(body: unknown): RequestInit {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function serverError(response: Response): Promise<ServerError> {
  const text = await response.text().catch(() => "");
  const after = Number(response.headers.get("retry-after"));
  let message = text.slice(0, 500) || `${response.status} ${response.statusText}`;
  let code: string | null = null;
  try {
    const { error } = JSON.parse(text) as ErrorBody;
    if (typeof error === "string") message = error;
    else if (error?.message) {
      message = error.message;
      code = error.code ?? null;
    }
  } catch {
    // A proxy's answer may be no JSON: its text is shown.
  }
  return new ServerError(message, response.status, code, after > 0 ? after : null);
}
