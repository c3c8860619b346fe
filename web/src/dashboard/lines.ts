// The lines of a chart as SVG paths, and as rows of a table.

import type { History } from "./answers";
import { GAP_SECONDS, SHOWN_SECONDS } from "./history";

export interface Series {
  column: Exclude<keyof History, "time">;
  label: string;
  /** Whether the area below the line is filled. */
  filled?: boolean;
}

/** The line through the points, and the area below it. The picture is 300 wide, a second for each, and 100 high. */
export function linePath(times: number[], values: (number | null)[], top: number): { line: string; area: string } {
  const end = times.at(-1) ?? 0;
  let line = "";
  let area = "";
  let begun: number | null = null;
  let last: { x: number; time: number } | null = null;
  const close = () => {
    if (begun !== null && last !== null) area += `V100H${begun}Z`;
    begun = null;
  };
  times.forEach((time, index) => {
    const value = values[index] ?? null;
    const x = Math.round((SHOWN_SECONDS - (end - time)) * 10) / 10;
    if (value === null || x < 0) {
      close();
      last = null;
      return;
    }
    const y = Math.round(1000 - 980 * Math.min(1, value / top)) / 10;
    if (last === null || time - last.time > GAP_SECONDS) {
      close();
      begun = x;
      line += `M${x} ${y}`;
      area += `M${x} ${y}`;
    } else {
      line += `L${x} ${y}`;
      area += `L${x} ${y}`;
    }
    last = { x, time };
  });
  close();
  return { line, area };
}

export interface Row {
  /** Seconds before the newest point. */
  ago: number;
  values: (number | null)[];
}

/** Every `seconds` a row with the values at that time, the newest first. */
export function tableRows(history: History, series: Series[], seconds: number): Row[] {
  const end = history.time.at(-1);
  if (end === undefined) return [];
  const rows: Row[] = [];
  for (let ago = 0; ago < SHOWN_SECONDS; ago += seconds) {
    const index = history.time.findIndex((time) => Math.abs(end - ago - time) < 1);
    if (index >= 0) rows.push({ ago, values: series.map(({ column }) => history[column][index] ?? null) });
  }
  return rows;
}
