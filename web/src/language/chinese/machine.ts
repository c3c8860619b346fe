// The dashboard's texts in Chinese.

import type { machine as english } from "../english/machine";

export const machine: Record<keyof typeof english, string> = {
  "machine.title": "机器",
};
