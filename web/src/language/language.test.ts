import { expect, test } from "vitest";
import { chinese } from "./chinese";
import { english } from "./english";

/** The names of values in a text. */
function values(text: string): string[] {
  return [...text.matchAll(/\{(\w+)\}/g)].map((found) => found[1] ?? "").sort();
}

test.each(Object.keys(english))("%s has the same values in both languages", (name) => {
  const key = name as keyof typeof english;
  expect(values(chinese[key])).toEqual(values(english[key]));
  expect(chinese[key].trim()).not.toBe("");
});
