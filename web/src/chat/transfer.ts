// Conversations as files: JSON, which can be imported again, and Markdown for readers.

import { branch, type Conversation, type Message, NO_SETTINGS, newestOf } from "./conversation";
import { history } from "./history";
import { withFiles } from "./request_body";

const FORMAT = "tailrace-conversations";

interface Exported {
  conversation: Conversation;
  messages: Message[];
}

async function exported(ids: readonly string[]): Promise<Exported[]> {
  const kept = await history;
  const known = (await kept.conversations()).filter(({ id }) => ids.includes(id));
  return Promise.all(
    known.map(async (conversation) => ({ conversation, messages: await kept.messages(conversation.id) })),
  );
}

/** Saves these conversations with all branches. */
export async function saveJson(ids: readonly string[]): Promise<void> {
  const found = await exported(ids);
  const text = JSON.stringify({ format: FORMAT, version: 1, conversations: found }, null, 1);
  const name = found.length === 1 ? (found[0]?.conversation.title ?? "") : "conversations";
  save(text, `${fileName(name)}.json`, "application/json");
}

/** Saves the branch of a conversation that was looked at last. */
export async function saveMarkdown(id: string): Promise<void> {
  const [found] = await exported([id]);
  if (found === undefined) return;
  const { conversation, messages } = found;
  save(markdownOf(conversation, messages), `${fileName(conversation.title)}.md`, "text/markdown");
}

/** The branch as Markdown: a heading for each message. */
export function markdownOf(conversation: Conversation, messages: readonly Message[]): string {
  const shown = branch(messages, conversation.leaf ?? newestOf(messages));
  const parts = shown.map((message) => {
    const calls = (message.calls ?? []).map((call) => `\`\`\`json\n${call.name} ${call.arguments}\n\`\`\``);
    const thought = message.reasoning ? [`> ${message.reasoning.trim().replace(/\n/g, "\n> ")}`] : [];
    const role = message.role === "assistant" && message.model ? `assistant (${message.model})` : message.role;
    return [`## ${role}`, ...thought, withFiles(message.content, message.files ?? []), ...calls].join("\n\n");
  });
  const { system } = conversation.settings;
  const head = system.trim() === "" ? [] : [`## system\n\n${system}`];
  return `${[`# ${conversation.title}`, ...head, ...parts].join("\n\n")}\n`;
}

/** The conversations in an exported file. Raises SyntaxError for a file that has none. */
export function parseExport(text: string): Exported[] {
  const data: unknown = JSON.parse(text);
  if (!isRecord(data) || data.format !== FORMAT || !Array.isArray(data.conversations)) throw new SyntaxError(FORMAT);
  return data.conversations.map((entry: unknown) => {
    if (!isRecord(entry) || !isRecord(entry.conversation) || !Array.isArray(entry.messages)) {
      throw new SyntaxError(FORMAT);
    }
    return { conversation: conversationOf(entry.conversation), messages: entry.messages.map(messageOf) };
  });
}

function conversationOf(found: Record<string, unknown>): Conversation {
  const settings = isRecord(found.settings) ? found.settings : {};
  const known = Object.entries(NO_SETTINGS).map(([name, otherwise]) => {
    const value = settings[name];
    const fits =
      typeof value === typeof otherwise || (otherwise === null && ["number", "string"].includes(typeof value));
    return [name, fits ? value : otherwise];
  });
  return {
    id: text(found.id),
    title: text(found.title),
    created: number(found.created),
    updated: number(found.updated),
    settings: Object.fromEntries(known) as unknown as Conversation["settings"],
    leaf: typeof found.leaf === "string" ? found.leaf : null,
  };
}

function messageOf(found: unknown): Message {
  if (!isRecord(found)) throw new SyntaxError(FORMAT);
  const role = found.role;
  if (role !== "user" && role !== "assistant" && role !== "tool") throw new SyntaxError(FORMAT);
  const message: Message = {
    id: text(found.id),
    conversation: text(found.conversation),
    parent: typeof found.parent === "string" ? found.parent : null,
    role,
    content: text(found.content),
    created: number(found.created),
    state: found.state === "complete" ? "complete" : "stopped",
  };
  if (typeof found.reasoning === "string") message.reasoning = found.reasoning;
  if (typeof found.callId === "string") message.callId = found.callId;
  if (typeof found.model === "string") message.model = found.model;
  if (Array.isArray(found.calls)) {
    message.calls = found.calls
      .filter(isRecord)
      .map((call) => ({ id: text(call.id), name: text(call.name), arguments: text(call.arguments) }));
  }
  if (Array.isArray(found.files)) {
    message.files = found.files.filter(isRecord).map((file) => ({ name: text(file.name), text: text(file.text) }));
  }
  return message;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}

function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50) || "conversation";
}

function save(content: string, name: string, type: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
