// Light or dark: the system's choice, unless the reader makes one.

import { keptStore } from "./preferences";

export type Theme = "system" | "light" | "dark";

export const theme = keptStore<Theme>("theme", "system");

/** Applies the theme to the document, now and after each change. */
export function applyTheme(): void {
  const apply = () => {
    if (theme.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.value;
  };
  theme.subscribe(apply);
  apply();
}
