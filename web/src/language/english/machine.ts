// The dashboard's texts in English.

export const machine = {
  "machine.title": "Machine",
} as const;
