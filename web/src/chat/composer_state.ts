// The message that is being written: its text, which outlives a reload, and its files.

import { SCOPE } from "../preferences";
import { Store } from "../store";
import type { AttachedFile } from "./conversation";

/** Larger files fit no usual context. */
const MAX_FILE = 1_000_000;
const NAME = `${SCOPE}:draft`;

function kept(): string {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

export const draft = new Store<string>(kept());
export const attached = new Store<readonly AttachedFile[]>([]);
/** Files that weren't taken, and why. */
export const refused = new Store<readonly { name: string; reason: "composer.binary" | "composer.large" }[]>([]);

draft.subscribe(() => {
  try {
    sessionStorage.setItem(NAME, draft.value);
  } catch {
    // The draft ends with the page.
  }
});

/** Adds these files to the message, as far as they are text. */
export async function attach(files: Iterable<File>): Promise<void> {
  refused.value = [];
  for (const file of files) {
    const text = file.size > MAX_FILE ? null : await readText(file);
    if (text !== null) attached.value = [...attached.value, { name: file.name, text }];
    else {
      const reason = file.size > MAX_FILE ? "composer.large" : "composer.binary";
      refused.value = [...refused.value, { name: file.name, reason }];
    }
  }
}

/** The file's text; null for a file that is no UTF-8, or can't be read. */
async function readText(file: File): Promise<string | null> {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
