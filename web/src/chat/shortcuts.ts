// The keys of the chat, beside those of a browser. With Alt, so that they never get in the way of writing.

import type { TextName } from "../language/language";
import { copyText } from "../parts/copy";
import { chatAddress, go, route } from "../route";
import { FIELD } from "./Composer";
import { openChat, regenerate, running, shownMessages, stopReply } from "./chats";

/** What the list shows: the keys, and what they do. */
export const LISTED: readonly { keys: readonly string[]; text: TextName }[] = [
  { keys: ["Enter"], text: "shortcuts.send" },
  { keys: ["Shift", "Enter"], text: "shortcuts.line" },
  { keys: ["Esc"], text: "shortcuts.stop" },
  { keys: ["Alt", "N"], text: "shortcuts.new" },
  { keys: ["Alt", "I"], text: "shortcuts.input" },
  { keys: ["Alt", "C"], text: "shortcuts.copy" },
  { keys: ["Alt", "R"], text: "shortcuts.regenerate" },
  { keys: ["Alt", "L"], text: "shortcuts.history" },
  { keys: ["Alt", "P"], text: "shortcuts.settings" },
  { keys: ["Alt", "K"], text: "shortcuts.list" },
];

export interface Toggles {
  history: () => void;
  settings: () => void;
  list: () => void;
}

/** Begins to follow the keyboard; returns the function that ends this. */
export function startShortcuts(toggles: Toggles): () => void {
  // By the key's place: with Alt, a Mac's keys write other letters.
  const actions: Record<string, () => void> = {
    KeyN: newChat,
    KeyI: goToInput,
    KeyC: copyLast,
    KeyR: regenerateLast,
    KeyL: toggles.history,
    KeyP: toggles.settings,
    KeyK: toggles.list,
  };
  const press = (event: KeyboardEvent) => {
    if (route.value.view !== "chat") return;
    if (event.key === "Escape" && !event.defaultPrevented && document.querySelector("dialog[open]") === null) {
      for (const id of receiving()) stopReply(id);
      return;
    }
    const action = event.altKey && !event.ctrlKey && !event.metaKey ? actions[event.code] : undefined;
    if (action === undefined) return;
    event.preventDefault();
    action();
  };
  document.addEventListener("keydown", press);
  return () => document.removeEventListener("keydown", press);
}

/** The running replies of the open conversation. */
function receiving(): string[] {
  return openChat.value.messages.filter(({ id }) => running.value.has(id)).map(({ id }) => id);
}

export function newChat(): void {
  go(chatAddress(null));
  goToInput();
}

function goToInput(): void {
  document.getElementById(FIELD)?.focus();
}

function lastReply() {
  return shownMessages(openChat.value).findLast((message) => message.role === "assistant");
}

function copyLast(): void {
  const reply = lastReply();
  if (reply !== undefined) void copyText(reply.content);
}

function regenerateLast(): void {
  const reply = lastReply();
  if (reply !== undefined && receiving().length === 0) void regenerate(reply);
}
