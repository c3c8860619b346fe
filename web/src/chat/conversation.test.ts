import { describe, expect, test } from "vitest";
import { branch, byParent, type Message, merged, newestLeaf, openCalls, present, titleOf } from "./conversation";

function message(id: string, parent: string | null, created: number, fields: Partial<Message> = {}): Message {
  return { id, conversation: "c", parent, role: "user", content: id, created, state: "complete", ...fields };
}

const TREE = [message("a", null, 1), message("b", "a", 2), message("c", "b", 3), message("d", "a", 4)];

describe("the tree of messages", () => {
  test("a branch goes from the first message to its leaf", () => {
    expect(branch(TREE, "c").map(({ id }) => id)).toEqual(["a", "b", "c"]);
    expect(branch(TREE, "d").map(({ id }) => id)).toEqual(["a", "d"]);
    expect(branch(TREE, null)).toEqual([]);
  });

  test("parents in a circle end", () => {
    expect(branch([message("x", "y", 1), message("y", "x", 2)], "x")).toHaveLength(2);
    expect(["x", "y"]).toContain(newestLeaf([message("x", "y", 1), message("y", "x", 2)], "x"));
  });

  test("siblings are in the order of their making, and lead to their newest leaf", () => {
    expect(
      byParent([...TREE].reverse())
        .get("a")
        ?.map(({ id }) => id),
    ).toEqual(["b", "d"]);
    expect(newestLeaf(TREE, "a")).toBe("d");
    expect(newestLeaf(TREE, "b")).toBe("c");
  });
});

test("each message counts as it was written last", () => {
  const [older, newer] = [1, 2].map((updated) => message("r", "a", 1, { updated, content: String(updated) }));
  if (older === undefined || newer === undefined) throw new Error("there are two");
  const only = message("new", "r", 5);
  expect(merged([older], [newer, only])).toEqual([newer, only]);
  expect(merged([newer], [older])).toEqual([newer]);
  expect(merged([only], [])).toEqual([only]);
});

test("a running reply whose tab has gone is cut", () => {
  const running = message("r", null, 0, { role: "assistant", state: "running", tab: "one", updated: 1000 });
  expect(present(running, "one", true, 2000).state).toBe("running");
  expect(present(running, "one", false, 2000).state).toBe("cut");
  expect(present(running, "two", false, 2000).state).toBe("running");
  expect(present(running, "two", false, 60_000).state).toBe("cut");
});

test("calls are open until each has an answer", () => {
  const calls = ["1", "2"].map((id) => ({ id, name: "f", arguments: "{}" }));
  const reply = message("r", null, 1, { role: "assistant", calls });
  const answer = message("t", "r", 2, { role: "tool", callId: "1" });
  expect(openCalls([reply]).map(({ id }) => id)).toEqual(["1", "2"]);
  expect(openCalls([reply, answer]).map(({ id }) => id)).toEqual(["2"]);
  expect(openCalls([message("u", null, 1)])).toEqual([]);
});

test("a title is the first line, cut between characters", () => {
  expect(titleOf("  one\ntwo")).toBe("one");
  expect(titleOf("👋🏽".repeat(40))).toMatch(/^(?:👋🏽)+…$/u);
});
