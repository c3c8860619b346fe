// The chat's texts in Chinese.

import type { chat as english } from "../english/chat";

export const chat: Record<keyof typeof english, string> = {
  "chat.title": "对话",
};
