import { expect, test } from "vitest";
import { type Message, NO_SETTINGS } from "./conversation";
import { requestBody, withFiles } from "./request_body";

const HELLO: Message = {
  ...{ id: "1", conversation: "c", parent: null, role: "user", content: "Hello", created: 1, state: "complete" },
};

test("what isn't set is left to the server", () => {
  const body = requestBody([HELLO], NO_SETTINGS, false);
  expect(Object.keys(body).sort()).toEqual(["messages", "return_progress", "stream", "timings_per_token"]);
  expect(body.messages).toEqual([{ role: "user", content: "Hello" }]);
});

test("zero is a value", () => {
  const body = requestBody([HELLO], { ...NO_SETTINGS, temperature: 0, seed: 0, stop: "a\n\nb" }, false);
  expect(body).toMatchObject({ temperature: 0, seed: 0, stop: ["a", "b"] });
});

test("a reply that goes on is the last message", () => {
  const reply: Message = { ...HELLO, id: "2", role: "assistant", content: "Once" };
  const body = requestBody([HELLO, reply], { ...NO_SETTINGS, system: "Be brief." }, true);
  expect(body).toMatchObject({ continue_final_message: true, add_generation_prompt: false });
  expect(body.messages).toEqual([
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hello" },
    { role: "assistant", content: "Once" },
  ]);
});

test("tools that are no JSON are an error", () => {
  expect(() => requestBody([HELLO], { ...NO_SETTINGS, tools: "[{" }, false)).toThrow(SyntaxError);
});

test("no line of a file ends its code block", () => {
  expect(withFiles("?", [{ name: "a.md", text: "````\nx\n" }])).toBe("a.md:\n`````\n````\nx\n`````\n\n?");
});
