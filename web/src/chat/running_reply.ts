// One reply while it comes: its request, its text so far, its figures, and what to do when the server can't answer yet.

import { type CallPiece, type Piece, streamChat } from "../server/chat_stream";
import { reachable } from "../server/connection";
import { keyWanted } from "../server/key";
import { ServerError, Unreachable } from "../server/request";
import { Store } from "../store";
import { pause, until } from "../until";
import type { Figures, Message, MessageState, ToolCall } from "./conversation";
import { FrameTimer } from "./frame_timer";

/** What is shown of a reply that grows. */
export interface Live {
  content: string;
  reasoning: string;
  calls: ToolCall[];
  /** The part of the prompt that the server has read, 0 to 1; null when it is through or doesn't say. */
  progress: number | null;
  /** Once the first token is there. */
  figures: Figures | null;
  /** Why the request waits before it is tried again; null while it doesn't. */
  waiting: "server" | "key" | string | null;
}

/** Codes of answers that pass: the request is sent again after the time that the server names. */
const PASSING = new Set(["engine_unavailable", "shutting_down", "server_busy", "queue_full", "too_many_connections"]);
/** Times that it is, for each request. */
const MAX_TRIES = 20;
/** Seconds between two writes of a growing reply to the history. */
const SECONDS_BETWEEN_WRITES = 1;

export class RunningReply {
  readonly live: Store<Live>;
  private readonly abort = new AbortController();
  private readonly frames = new FrameTimer(() => this.publish());
  private content: string;
  private reasoning: string;
  private calls: ToolCall[];
  private progress: number | null = null;
  private model: string | undefined;
  private finish: string | null = null;
  private timings: Piece["timings"];
  private begun = 0;
  private first = 0;
  private written = 0;

  /** `body` is the request's. `write` gets the message now and then and at its end, which its state says. */
  constructor(
    private readonly message: Message,
    private readonly body: unknown,
    private readonly write: (message: Message) => void,
  ) {
    this.content = message.content;
    this.reasoning = message.reasoning ?? "";
    this.calls = message.calls ?? [];
    this.live = new Store<Live>(this.shown(null));
    void this.run();
  }

  /** Ends the request; the reply stays as it is. */
  stop(): void {
    this.abort.abort();
  }

  private async run(): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.receive();
        this.end(this.finish === "length" ? "length" : "complete");
        return;
      } catch (error) {
        if (this.abort.signal.aborted) {
          this.end("stopped");
          return;
        }
        try {
          if (tries > MAX_TRIES || !(await this.mayTryAgain(error))) {
            this.fail(error);
            return;
          }
        } catch {
          this.end("stopped");
          return;
        }
      }
    }
  }

  /** Waits until the request can be sent again; false where that makes no sense. */
  private async mayTryAgain(error: unknown): Promise<boolean> {
    const { signal } = this.abort;
    if (error instanceof Unreachable) {
      // The server may have worked on the prompt for long, and would again.
      if (error.begun) return false;
      this.live.value = this.shown("server");
      // The server may have closed the connection just now, and answer the next one.
      await pause(0.5, signal);
      await until(reachable, (value) => value, signal);
    } else if (error instanceof ServerError && error.status === 401) {
      this.live.value = this.shown("key");
      await until(keyWanted, (wanted) => !wanted.open, signal);
      if (!keyWanted.value.given) return false;
    } else if (error instanceof ServerError && this.first === 0 && error.code !== null && PASSING.has(error.code)) {
      this.live.value = this.shown(error.message);
      await pause(error.retryAfter ?? 2, signal);
    } else {
      return false;
    }
    this.live.value = this.shown(null);
    return true;
  }

  private async receive(): Promise<void> {
    this.begun = performance.now();
    for await (const piece of streamChat(this.body, this.abort.signal)) {
      this.take(piece);
      this.frames.request();
      const now = Date.now();
      if (now - this.written > SECONDS_BETWEEN_WRITES * 1000) {
        this.written = now;
        this.write(this.snapshot("running"));
      }
    }
  }

  private take(piece: Piece): void {
    if (piece.model !== undefined) this.model = piece.model;
    if (piece.progress !== undefined) this.progress = piece.progress.processed / Math.max(1, piece.progress.total);
    if (piece.timings !== undefined) this.timings = piece.timings;
    if (piece.finish !== undefined) this.finish = piece.finish;
    if (piece.content === undefined && piece.reasoning === undefined && piece.calls === undefined) return;
    this.first ||= performance.now();
    this.progress = null;
    this.content += piece.content ?? "";
    this.reasoning += piece.reasoning ?? "";
    if (piece.calls !== undefined) this.calls = withPieces(this.calls, piece.calls);
  }

  private fail(error: unknown): void {
    if (error instanceof Unreachable) {
      this.end("cut");
      return;
    }
    this.frames.cancel();
    const message = error instanceof Error ? error.message : String(error);
    // The server also sends the error as content, for clients that read nothing else.
    const shown = `[error: ${message}]`;
    if (this.content.endsWith(shown)) this.content = this.content.slice(0, -shown.length).trimEnd();
    const code = error instanceof ServerError ? error.code : null;
    this.write({ ...this.snapshot("failed"), failure: { message, code } });
  }

  private end(state: MessageState): void {
    this.frames.cancel();
    this.write(this.snapshot(state));
  }

  private snapshot(state: MessageState): Message {
    const { failure: _, tab, ...message } = this.message;
    return {
      ...message,
      ...(state === "running" && tab !== undefined ? { tab } : {}),
      state,
      updated: Date.now(),
      content: this.content,
      ...(this.reasoning !== "" ? { reasoning: this.reasoning } : {}),
      ...(this.calls.length > 0 ? { calls: this.calls } : {}),
      ...(this.model !== undefined ? { model: this.model } : {}),
      ...(this.first > 0 ? { figures: this.figures() } : {}),
    };
  }

  private figures(): Figures {
    const { timings } = this;
    return {
      firstTokenSeconds: (this.first - this.begun) / 1000,
      tokens: timings?.tokens ?? null,
      perSecond: timings?.perSecond || null,
      promptTokens: timings?.prompt ?? null,
      cachedTokens: timings?.cached ?? null,
    };
  }

  private publish(): void {
    this.live.value = this.shown(null);
  }

  private shown(waiting: Live["waiting"]): Live {
    return {
      content: this.content,
      reasoning: this.reasoning,
      calls: this.calls,
      progress: this.progress,
      figures: this.first > 0 ? this.figures() : null,
      waiting,
    };
  }
}

/** The calls with what the pieces add. A call's name and id come once, its arguments in pieces. */
export function withPieces(calls: readonly ToolCall[], pieces: readonly CallPiece[]): ToolCall[] {
  const found = [...calls];
  for (const piece of pieces) {
    const before = found[piece.index] ?? { id: "", name: "", arguments: "" };
    found[piece.index] = {
      id: before.id || (piece.id ?? ""),
      name: before.name || (piece.name ?? ""),
      arguments: before.arguments + (piece.arguments ?? ""),
    };
  }
  return found.filter((call) => call !== undefined);
}
