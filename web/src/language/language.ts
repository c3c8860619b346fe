// The page's language: the browser's, unless the reader chooses another. Every text of the page comes from here.

import { keptStore } from "../preferences";
import { useStore } from "../store";
import { chinese } from "./chinese";
import { english } from "./english";

export type Language = "en" | "zh";
export type TextName = keyof typeof english;
/** Gives a text in the page's language; `{name}` in it becomes the value of that name. */
export type Translate = (name: TextName, values?: Record<string, string | number>) => string;

export const LANGUAGES: Record<Language, string> = { en: "English", zh: "简体中文" };

export const language = keptStore<Language>("language", navigator.language.startsWith("zh") ? "zh" : "en");

/** See `Translate`. For code outside of components: it doesn't follow changes. */
export const translate: Translate = (name, values = {}) => {
  const text: string = (language.value === "zh" ? chinese : english)[name];
  return text.replace(/\{(\w+)\}/g, (whole, key: string) => String(values[key] ?? whole));
};

/** The same for components, which are rendered again when the language changes. */
export function useTranslate(): Translate {
  useStore(language);
  return translate;
}

/** Names the language in the document, for screen readers and hyphenation. */
export function applyLanguage(): void {
  const apply = () => {
    document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
  };
  language.subscribe(apply);
  apply();
}
