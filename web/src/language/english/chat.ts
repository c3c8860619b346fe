// The chat's texts in English.

export const chat = {
  "chat.title": "Chat",
} as const;
