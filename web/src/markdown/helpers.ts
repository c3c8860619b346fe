// The highlighter and the formulas' renderer: fetched when a reply first needs them.

import { Store } from "../store";

type Highlight = (code: string, language: string) => string | null;
type Mathml = (source: string, block: boolean) => string;

interface Helpers {
  highlight: Highlight | null;
  mathml: Mathml | null;
}

/** What is there. Markdown is rendered again when one comes. */
export const helpers = new Store<Helpers>({ highlight: null, mathml: null });
const asked = new Set<string>();

/** Fetches a helper once. Without it, code and formulas are shown as they were written. */
export function fetchHelper(name: keyof Helpers): void {
  if (asked.has(name)) return;
  asked.add(name);
  const found =
    name === "highlight"
      ? import("./highlighter").then(({ highlight }) => ({ highlight }))
      : import("./formula").then(({ mathml }) => ({ mathml }));
  found.then(
    (helper) => {
      helpers.value = { ...helpers.value, ...helper };
    },
    () => asked.delete(name),
  );
}
