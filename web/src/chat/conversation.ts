// Conversations as data. Messages form a tree: an edited or regenerated message is a sibling of the one before.

/** Values of a request's fields. Null and "" leave the choice to the server. */
export interface ChatSettings {
  model: string | null;
  system: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  minP: number | null;
  repeatPenalty: number | null;
  maxTokens: number | null;
  seed: number | null;
  stop: string;
  thinking: "default" | "on" | "off";
  /** The tools that the model may call, as JSON of the API's field. */
  tools: string;
}

export const NO_SETTINGS: ChatSettings = {
  model: null,
  system: "",
  temperature: null,
  topP: null,
  topK: null,
  minP: null,
  repeatPenalty: null,
  maxTokens: null,
  seed: null,
  stop: "",
  thinking: "default",
  tools: "",
};

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  settings: ChatSettings;
  /** The last message of the branch that was looked at last. */
  leaf: string | null;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON, as the model wrote it. */
  arguments: string;
}

export interface AttachedFile {
  name: string;
  text: string;
}

/** The time to the first token is measured here, from the request on; all else is the server's. */
export interface Figures {
  firstTokenSeconds: number;
  tokens: number | null;
  perSecond: number | null;
  promptTokens: number | null;
  cachedTokens: number | null;
}

export interface Failure {
  message: string;
  code: string | null;
}

/** `cut`: the page was closed, or the connection broke, before the reply's end. */
export type MessageState = "running" | "complete" | "stopped" | "length" | "failed" | "cut";

export interface Message {
  id: string;
  conversation: string;
  parent: string | null;
  role: "user" | "assistant" | "tool";
  content: string;
  created: number;
  state: MessageState;
  files?: AttachedFile[];
  reasoning?: string;
  calls?: ToolCall[];
  /** Of a tool's message: the call that it answers. */
  callId?: string;
  model?: string;
  figures?: Figures;
  failure?: Failure;
  /** Of a running reply: the tab that receives it, and when that tab has last written it. */
  tab?: string;
  updated?: number;
}

/** A new random name. `crypto.randomUUID` exists on pages with TLS alone. */
export function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The messages from the first one to `leaf`. */
export function branch(messages: readonly Message[], leaf: string | null): Message[] {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const found: Message[] = [];
  // An imported file may name parents in a circle.
  const seen = new Set<string>();
  for (let id = leaf; id !== null && !seen.has(id); ) {
    const message = byId.get(id);
    if (message === undefined) break;
    seen.add(id);
    found.push(message);
    id = message.parent;
  }
  return found.reverse();
}

/** The messages by their parent, oldest first: those of one parent stand in the same place. */
export function byParent(messages: readonly Message[]): Map<string | null, Message[]> {
  const found = new Map<string | null, Message[]>();
  for (const message of [...messages].sort(byTime)) {
    const siblings = found.get(message.parent);
    if (siblings === undefined) found.set(message.parent, [message]);
    else siblings.push(message);
  }
  return found;
}

/** The messages of the history and of this tab together, each as it was written last. */
export function merged(kept: readonly Message[], own: readonly Message[]): Message[] {
  const found = new Map(own.map((message) => [message.id, message]));
  for (const message of kept) {
    const here = found.get(message.id);
    if (here === undefined || (message.updated ?? 0) > (here.updated ?? 0)) found.set(message.id, message);
  }
  return [...found.values()];
}

/** The end of the newest branch that goes through this message. */
export function newestLeaf(messages: readonly Message[], id: string): string {
  const children = byParent(messages);
  let leaf = id;
  const seen = new Set<string>();
  while (!seen.has(leaf)) {
    seen.add(leaf);
    leaf = children.get(leaf)?.at(-1)?.id ?? leaf;
  }
  return leaf;
}

/** The end of the newest branch of a conversation; null for an empty one. */
export function newestOf(messages: readonly Message[]): string | null {
  return [...messages].sort(byTime).at(-1)?.id ?? null;
}

function byTime(a: Message, b: Message): number {
  return a.created - b.created || (a.id < b.id ? -1 : 1);
}

/** Milliseconds after which a running reply that its tab doesn't write any more has lost its tab. */
const LOST_AFTER = 30_000;

/** The message as it is now: a running reply whose tab has gone is a cut one. `here`: this tab, and `runs`: whether it
 * receives the reply. */
export function present(message: Message, here: string, runs: boolean, now: number): Message {
  if (message.state !== "running" || runs) return message;
  const lost = message.tab === here || now - (message.updated ?? message.created) > LOST_AFTER;
  return lost ? { ...message, state: "cut" } : message;
}

/** The calls of the branch's last reply that have no answer yet. */
export function openCalls(shown: readonly Message[]): ToolCall[] {
  const asked = shown.findLastIndex((message) => message.role === "assistant");
  const answered = new Set(shown.slice(asked + 1).map((message) => message.callId));
  return (shown[asked]?.calls ?? []).filter((call) => !answered.has(call.id));
}

/** A title made of the first message. */
export function titleOf(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  const characters = [...line];
  return characters.length > 60 ? `${characters.slice(0, 60).join("").trimEnd()}…` : line;
}
