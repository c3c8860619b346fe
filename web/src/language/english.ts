// Every text of the page in English. Other languages have the same names.

import { chat } from "./english/chat";
import { machine } from "./english/machine";

export const english = {
  ...chat,
  ...machine,
  "app.name": "tailrace",
  "nav.chat": "Chat",
  "nav.machine": "Machine",
  "nav.views": "Views",
  "nav.skip": "Skip to the content",
  "theme.label": "Appearance",
  "theme.system": "System",
  "theme.light": "Light",
  "theme.dark": "Dark",
  "language.label": "Language",
  "common.close": "Close",
  "common.cancel": "Cancel",
  "common.retry": "Try again",
  "common.loading": "Loading …",
  "key.title": "API key needed",
  "key.explain": "This server answers only clients with a key. Its operator makes one with: tailrace keys create NAME",
  "key.wrong": "The server doesn't accept this key.",
  "key.label": "API key",
  "key.keep": "Keep the key in this browser",
  "key.use": "Use this key",
  "key.forget": "Forget the key",
  "connection.lost": "The server can't be reached. The page tries again; what you have written stays here.",
  "connection.back": "The server answers again.",
} as const;
