// Which view the address names: `#/chat`, `#/chat/ID`, `#/machine`. The server knows nothing of it.

import { Store } from "./store";

export interface Route {
  view: "chat" | "machine";
  /** The conversation, where the address names one. */
  conversation: string | null;
}

function parse(hash: string): Route {
  const [view, id] = hash.replace(/^#\/?/, "").split("/");
  return { view: view === "machine" ? "machine" : "chat", conversation: view === "chat" && id ? id : null };
}

export const route = new Store<Route>(parse(location.hash));

window.addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

/** The address of a conversation; null is a new one. */
export function chatAddress(id: string | null): string {
  return id === null ? "#/chat" : `#/chat/${id}`;
}

/** Goes to this address; `replace` leaves no entry in the browser's history. */
export function go(address: string, replace = false): void {
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  route.value = parse(address);
}
