// The conversations of this browser: the list, the one that is open, and what the reader does with them.

import { keptStore } from "../preferences";
import { chatAddress, go, route } from "../route";
import { Store } from "../store";
import {
  type AttachedFile,
  branch,
  type ChatSettings,
  type Conversation,
  type Message,
  merged,
  NO_SETTINGS,
  newestLeaf,
  newestOf,
  newId,
  openCalls,
  present,
  titleOf,
} from "./conversation";
import { history } from "./history";
import { requestBody } from "./request_body";
import { RunningReply } from "./running_reply";
import { announce, onAnnounced, TAB } from "./tabs";

export interface OpenChat {
  /** null: a new one, which exists from its first message on. */
  conversation: Conversation | null;
  messages: readonly Message[];
  leaf: string | null;
}

const NEW: OpenChat = { conversation: null, messages: [], leaf: null };

/** All conversations, the one with the newest message first. */
export const conversations = new Store<readonly Conversation[]>([]);
export const openChat = new Store<OpenChat>(NEW);
/** The replies that come to this tab, by their message. */
export const running = new Store<ReadonlyMap<string, RunningReply>>(new Map());
/** Settings of new conversations: those that were chosen last. */
export const defaults = keptStore<ChatSettings>("chat-settings", NO_SETTINGS);

/** The messages that are shown: the branch that ends with the leaf. */
export function shownMessages(chat: OpenChat): Message[] {
  return branch(chat.messages, chat.leaf).map((message) =>
    present(message, TAB, running.value.has(message.id), Date.now()),
  );
}

export function settingsOf(chat: OpenChat): ChatSettings {
  return { ...NO_SETTINGS, ...(chat.conversation?.settings ?? defaults.value) };
}

/** Begins to follow the address and the other tabs. */
export function startChats(): void {
  void readList();
  void openAddressed();
  route.subscribe(() => void openAddressed());
  onAnnounced((id) => {
    void readList();
    if (openChat.value.conversation?.id === id) void read(id);
  });
}

async function readList(): Promise<void> {
  const found = await (await history).conversations();
  conversations.value = found.sort((a, b) => b.updated - a.updated);
}

async function openAddressed(): Promise<void> {
  const { view, conversation } = route.value;
  if (view !== "chat" || conversation === (openChat.value.conversation?.id ?? null)) return;
  if (conversation === null) openChat.value = NEW;
  else await read(conversation);
}

/** Shows a conversation as the history and this tab have it: what was written here just now may not be there yet. */
async function read(id: string): Promise<void> {
  const kept = await history;
  const [found, messages] = await Promise.all([kept.conversations(), kept.messages(id)]);
  if (route.value.conversation !== id) return;
  const conversation = found.find((one) => one.id === id);
  if (conversation === undefined) {
    go(chatAddress(null), true);
    return;
  }
  const chat = openChat.value;
  const own = chat.conversation?.id === id ? chat.conversation : null;
  const all = own === null ? messages : merged(messages, chat.messages);
  const known = (leaf: string | null) => all.some((message) => message.id === leaf);
  openChat.value = {
    // The fields that are being filled in are this tab's.
    conversation: { ...conversation, settings: own?.settings ?? conversation.settings },
    messages: all,
    leaf: [own === null ? null : chat.leaf, conversation.leaf].find(known) ?? newestOf(all),
  };
}

/** Writes messages of one conversation to the page, where it is open, and to the history. */
async function put(messages: readonly [Message, ...Message[]], leaf?: string): Promise<void> {
  const [{ conversation }] = messages;
  const chat = openChat.value;
  if (chat.conversation?.id === conversation) {
    const changed = new Set(messages.map(({ id }) => id));
    const before = chat.messages.filter(({ id }) => !changed.has(id));
    openChat.value = { ...chat, messages: [...before, ...messages], leaf: leaf ?? chat.leaf };
  }
  await keep(messages);
  if (leaf !== undefined) await changeConversation(conversation, { leaf, updated: Date.now() });
}

/** Writes messages of one conversation to the history. */
async function keep(messages: readonly [Message, ...Message[]]): Promise<void> {
  await (await history).putMessages(messages);
  announce(messages[0].conversation);
}

function newMessage(conversation: string, parent: string | null, fields: Partial<Message>): Message {
  const message: Message = {
    ...{ id: newId(), conversation, parent, role: "user", content: "", state: "complete" },
    created: Date.now(),
    ...fields,
  };
  // Siblings are in the order of their making.
  const latest = Math.max(0, ...openChat.value.messages.map((other) => other.created));
  return message.created > latest ? message : { ...message, created: latest + 1 };
}

async function begin(title: string): Promise<Conversation> {
  const now = Date.now();
  const conversation: Conversation = {
    ...{ id: newId(), title, created: now, updated: now, leaf: null },
    settings: settingsOf(openChat.value),
  };
  openChat.value = { conversation, messages: [], leaf: null };
  await (await history).putConversation(conversation);
  go(chatAddress(conversation.id));
  return conversation;
}

/** Sends a message at the end of the open conversation. */
export async function sendMessage(text: string, files: AttachedFile[] = []): Promise<void> {
  const { id } = openChat.value.conversation ?? (await begin(titleOf(text || (files[0]?.name ?? ""))));
  const message = newMessage(id, openChat.value.leaf, { content: text, ...(files.length > 0 ? { files } : {}) });
  await put([message], message.id);
  await reply(message);
}

/** Sends a changed message in the place of one of the reader's: another branch. */
export async function editMessage(message: Message, text: string): Promise<void> {
  const { files } = message;
  const changed = newMessage(message.conversation, message.parent, { content: text, ...(files ? { files } : {}) });
  await put([changed], changed.id);
  await reply(changed);
}

/** Has another reply made in the place of one: another branch. */
export async function regenerate(message: Message): Promise<void> {
  const parent = openChat.value.messages.find((other) => other.id === message.parent);
  if (parent !== undefined) await reply(parent);
}

/** Has a reply go on where it ends. */
export async function continueReply(message: Message): Promise<void> {
  const shown = branch(openChat.value.messages, message.id);
  await run({ ...message, state: "running", tab: TAB, updated: Date.now() }, shown, true);
}

/** Answers a tool's call. When all calls have an answer, the model goes on. */
export async function answerCall(callId: string, text: string): Promise<void> {
  const { conversation, leaf } = openChat.value;
  if (conversation === null) return;
  const answer = newMessage(conversation.id, leaf, { role: "tool", content: text, callId });
  await put([answer], answer.id);
  if (openCalls(branch(openChat.value.messages, answer.id)).length === 0) await reply(answer);
}

async function reply(parent: Message): Promise<void> {
  const message = newMessage(parent.conversation, parent.id, {
    ...{ role: "assistant", state: "running", tab: TAB, updated: Date.now() },
  });
  await run(message, branch(openChat.value.messages, parent.id), false);
}

async function run(message: Message, shown: readonly Message[], continued: boolean): Promise<void> {
  let body: unknown;
  try {
    body = requestBody(shown, settingsOf(openChat.value), continued);
  } catch (error) {
    const failure = { message: `tools: ${String(error)}`, code: null };
    await put([{ ...message, state: "failed", failure }], message.id);
    return;
  }
  const started = new RunningReply(message, body, (changed) => {
    if (changed.state === "running") {
      // The page follows the reply itself.
      void keep([changed]);
      return;
    }
    const left = new Map(running.value);
    left.delete(message.id);
    running.value = left;
    void put([changed]);
  });
  running.value = new Map(running.value).set(message.id, started);
  await put([message], message.id);
}

/** Ends a running reply; it stays as it is. */
export function stopReply(id: string): void {
  running.value.get(id)?.stop();
}

/** Shows the branch of a sibling. */
export function choose(message: Message): void {
  const chat = openChat.value;
  const leaf = newestLeaf(chat.messages, message.id);
  openChat.value = { ...chat, leaf };
  void history.then((kept) => kept.changeConversation(message.conversation, { leaf }));
}

/** Changes settings of the open conversation; those are also the next one's. */
export function changeSettings(change: Partial<ChatSettings>): void {
  const chat = openChat.value;
  const settings = { ...settingsOf(chat), ...change };
  defaults.value = settings;
  if (chat.conversation === null) {
    openChat.value = { ...chat };
    return;
  }
  openChat.value = { ...chat, conversation: { ...chat.conversation, settings } };
  void changeConversation(chat.conversation.id, { settings });
}

export function rename(id: string, title: string): void {
  const { conversation } = openChat.value;
  if (conversation?.id === id) openChat.value = { ...openChat.value, conversation: { ...conversation, title } };
  void changeConversation(id, { title });
}

async function changeConversation(id: string, change: Partial<Conversation>): Promise<void> {
  await (await history).changeConversation(id, change);
  announce(id);
  await readList();
}

/** Deletes a conversation with all its messages, and ends its replies. */
export async function removeConversation(id: string): Promise<void> {
  const kept = await history;
  for (const message of await kept.messages(id)) stopReply(message.id);
  await kept.remove(id);
  announce(id);
  await readList();
  if (openChat.value.conversation?.id === id) go(chatAddress(null));
}

/** Adds conversations of an export. They get names of their own, so nothing is overwritten. */
export async function addConversations(found: readonly { conversation: Conversation; messages: Message[] }[]) {
  const kept = await history;
  for (const { conversation, messages } of found) {
    const id = newId();
    const names = new Map(messages.map((message) => [message.id, newId()]));
    const renamed = (name: string | null) => (name === null ? null : (names.get(name) ?? null));
    await kept.putConversation({ ...conversation, id, leaf: renamed(conversation.leaf) });
    await kept.putMessages(
      messages.map((message) => ({
        ...message,
        ...{ id: names.get(message.id) ?? newId(), conversation: id, parent: renamed(message.parent) },
      })),
    );
    announce(id);
  }
  await readList();
}
