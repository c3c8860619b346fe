// A streamed reply of /v1/chat/completions as typed pieces.

import { markLost } from "./connection";
import { jsonPost, ServerError, send, Unreachable } from "./request";

export interface CallPiece {
  index: number;
  id?: string;
  name?: string;
  arguments?: string;
}

/** One event's news; all parts are optional. */
export interface Piece {
  content?: string;
  reasoning?: string;
  calls?: CallPiece[];
  finish?: string;
  model?: string;
  /** The server's figures so far. */
  timings?: { prompt: number; cached: number; tokens: number; perSecond: number };
  /** Prompt tokens that the server has read, of all. */
  progress?: { processed: number; total: number };
}

interface Chunk {
  model?: string;
  choices?: {
    delta?: {
      content?: string | null;
      reasoning_content?: string | null;
      tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[];
    };
    finish_reason?: string | null;
  }[];
  timings?: { cache_n: number; prompt_n: number; predicted_n: number; predicted_per_second: number };
  prompt_progress?: { processed: number; total: number };
  error?: { message: string; code?: string | null };
}

/** The reply's pieces as they come. Raises ServerError and Unreachable, also in the middle of the reply; an abort passes
 * through. */
export async function* streamChat(body: unknown, signal: AbortSignal): AsyncGenerator<Piece> {
  const response = await send("v1/chat/completions", { ...jsonPost(body), signal });
  for await (const data of events(response, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error !== undefined) throw new ServerError(chunk.error.message, 500, chunk.error.code ?? null, null);
    yield piece(chunk);
  }
  // A server that ends a reply says so.
  throw broken();
}

/** The connection broke in the middle. */
function broken(): Unreachable {
  markLost();
  return new Unreachable(true);
}

function piece(chunk: Chunk): Piece {
  const [choice] = chunk.choices ?? [];
  const found: Piece = {};
  if (chunk.model) found.model = chunk.model;
  if (choice?.delta?.content) found.content = choice.delta.content;
  if (choice?.delta?.reasoning_content) found.reasoning = choice.delta.reasoning_content;
  if (choice?.delta?.tool_calls) {
    found.calls = choice.delta.tool_calls.map(({ index, id, function: called }) => ({
      index,
      ...(id ? { id } : {}),
      ...called,
    }));
  }
  if (choice?.finish_reason) found.finish = choice.finish_reason;
  if (chunk.prompt_progress) found.progress = chunk.prompt_progress;
  if (chunk.timings) {
    found.timings = {
      prompt: chunk.timings.prompt_n + chunk.timings.cache_n,
      cached: chunk.timings.cache_n,
      tokens: chunk.timings.predicted_n,
      perSecond: chunk.timings.predicted_per_second,
    };
  }
  return found;
}

/** The data of each server-sent event. Comments are signs of life. */
async function* events(response: Response, signal: AbortSignal): AsyncGenerator<string> {
  if (response.body === null) throw broken();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        if (signal.aborted) throw error;
        throw broken();
      });
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
    }
  } finally {
    // A reader that leaves early ends the request.
    void reader.cancel().catch(() => undefined);
  }
}
