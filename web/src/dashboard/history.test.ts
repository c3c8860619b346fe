import { describe, expect, test } from "vitest";
import type { History } from "./answers";
import { emptyHistory, merged } from "./history";
import { linePath, tableRows } from "./lines";

/** Points at these times; each has its time as the rate. */
function points(...times: number[]): History {
  const history = emptyHistory();
  history.time.push(...times);
  for (const [name, column] of Object.entries(history)) {
    if (name !== "time") column.push(...times.map((time) => (name.startsWith("first") ? null : time)));
  }
  return history;
}

describe("the history", () => {
  test("newer points are added, known ones aren't repeated", () => {
    const history = merged(points(10, 11, 12), points(11, 12, 13));
    expect(history.time).toEqual([10, 11, 12, 13]);
    expect(history.generated).toEqual([10, 11, 12, 13]);
    expect(merged(history, points())).toBe(history);
  });

  test("points that are too old to be shown are dropped", () => {
    expect(merged(points(10, 11, 400), points(401)).time).toEqual([400, 401]);
    expect(merged(points(10, 11), points(900)).time).toEqual([900]);
  });
});

describe("a line", () => {
  test("it has a second for each unit, the newest at the right", () => {
    expect(linePath([100, 101], [0, 5], 10).line).toBe("M299 100L300 51");
  });

  test("it is broken where nothing was measured, and while the server was away", () => {
    const { line, area } = linePath([100, 101, 102, 103, 110], [1, 1, null, 1, 1], 1);
    expect(line).toBe("M290 2L291 2M293 2M300 2");
    expect(area).toBe("M290 2L291 2V100H290ZM293 2V100H293ZM300 2V100H300Z");
  });

  test("it stays in the picture, and starts in it", () => {
    expect(linePath([100, 500], [7, 99], 10).line).toBe("M300 2");
  });

  test("its table has a row each thirty seconds, as far as there are points", () => {
    const history = points(100, 130, 160);
    const series = [{ column: "generated" as const, label: "now" }];
    expect(tableRows(history, series, 30).map(({ ago, values }) => [ago, ...values])).toEqual([
      [0, 160],
      [30, 130],
      [60, 100],
    ]);
    expect(tableRows(points(), series, 30)).toEqual([]);
  });
});
