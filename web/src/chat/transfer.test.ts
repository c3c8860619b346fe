import { expect, test, vi } from "vitest";

vi.mock("./history", () => ({ history: Promise.resolve({}) }));

const { markdownOf, parseExport } = await import("./transfer");

const MESSAGE = {
  id: "m",
  conversation: "c",
  parent: null,
  role: "user",
  content: "Hi",
  created: 1,
  state: "complete",
};
const CONVERSATION = { id: "c", title: "T", created: 1, updated: 2, settings: { temperature: 0.5, x: 1 }, leaf: "m" };

function file(messages: unknown[], conversation: unknown = CONVERSATION): string {
  return JSON.stringify({ format: "tailrace-conversations", version: 1, conversations: [{ conversation, messages }] });
}

test("an export is read again", () => {
  const [found] = parseExport(file([MESSAGE]));
  expect(found?.messages).toEqual([MESSAGE]);
  expect(found?.conversation.settings.temperature).toBe(0.5);
  expect(found?.conversation.settings).not.toHaveProperty("x");
});

test("fields of other types are dropped, and other files refused", () => {
  const [found] = parseExport(file([{ ...MESSAGE, content: { toString: 1 }, files: [1, { name: 2 }], calls: "x" }]));
  expect(found?.messages[0]).toMatchObject({ content: "", files: [{ name: "", text: "" }] });
  expect(found?.messages[0]).not.toHaveProperty("calls");
  for (const wrong of ["{}", "[]", "null", "{", file([{ ...MESSAGE, role: "system" }]), file([1]), file([], 1)]) {
    expect(() => parseExport(wrong)).toThrow(SyntaxError);
  }
});

test("Markdown has the branch", () => {
  const [found] = parseExport(file([MESSAGE]));
  expect(found && markdownOf(found.conversation, found.messages)).toBe("# T\n\n## user\n\nHi\n");
});
