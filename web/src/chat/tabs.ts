// This tab among the others that show the same server: its name, and word of which conversations have changed.

import { SCOPE } from "../preferences";
import { newId } from "./conversation";

const channel = "BroadcastChannel" in window ? new BroadcastChannel(SCOPE) : null;

/** The tab's name, which outlives a reload. */
export const TAB = tabName();

function tabName(): string {
  const name = `${SCOPE}:tab`;
  try {
    const known = sessionStorage.getItem(name) ?? newId();
    sessionStorage.setItem(name, known);
    return known;
  } catch {
    return newId();
  }
}

/** Says to the other tabs that this conversation has changed. */
export function announce(conversation: string): void {
  channel?.postMessage(conversation);
}

/** Calls `listener` with each conversation that another tab has changed. */
export function onAnnounced(listener: (conversation: string) => void): void {
  channel?.addEventListener("message", (event: MessageEvent<string>) => listener(event.data));
}
