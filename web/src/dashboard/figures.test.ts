import { beforeEach, describe, expect, test, vi } from "vitest";

// The language's store asks the browser.
vi.stubGlobal("navigator", { language: "en" });
vi.stubGlobal("location", { pathname: "/" });

const { language } = await import("../language/language");
const { number, percent, rate, roundUp, seconds, size } = await import("./figures");

describe("numbers with their units", () => {
  beforeEach(() => {
    language.value = "en";
  });

  test.each([
    [null, "–"],
    [0.0042, "4.2 ms"],
    [0.0175, "18 ms"],
    [0.999, "1.0 s"],
    [12.4, "12 s"],
    [150, "3 min"],
    [10_000, "3 h"],
    [400_000, "5 d"],
  ])("a duration of %s seconds", (amount, shown) => {
    expect(seconds(amount)).toBe(shown);
  });

  test.each([
    [0, "0 kB"],
    [640_000, "640 kB"],
    [96_576_768, "97 MB"],
    [2_713_054_464, "2.7 GB"],
    [1.5e12, "1.5 TB"],
  ])("%s bytes", (bytes, shown) => {
    expect(size(bytes)).toBe(shown);
  });

  test("rates, parts and counts", () => {
    expect([rate(0), rate(8.44), rate(127.4)]).toEqual(["0", "8.4", "127"]);
    expect(percent(0.424)).toBe("42 %");
    expect(number(1_234_567)).toBe("1,234,567");
  });

  test("a scale ends at a round number that isn't below its values", () => {
    expect([0, 0.013, 1, 3, 77, 100, 101].map(roundUp)).toEqual([1, 0.02, 1, 5, 100, 100, 200]);
  });
});
