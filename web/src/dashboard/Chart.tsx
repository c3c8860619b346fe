// One chart of the last five minutes: lines, their values now, and the same as text or as a table.

import { useMemo, useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import type { History } from "./answers";
import { roundUp } from "./figures";
import { linePath, type Series, tableRows } from "./lines";
import { Scroll } from "./Scroll";

interface ChartProps {
  title: string;
  history: History;
  series: Series[];
  format: (value: number | null) => string;
  /** What belongs to the value in words, such as "tokens/s". */
  unit?: string;
  /** The top of the scale, where it is fixed. */
  top?: number;
  /** The least top of the scale. */
  least?: number;
  asTable: boolean;
}

/** Seconds between two rows of the table. */
const ROW_SECONDS = 30;

export function Chart({ title, history, series, format, unit = "", top, least = 1, asTable }: ChartProps) {
  const t = useTranslate();
  const place = useRef<SVGSVGElement>(null);
  const [pointed, setPointed] = useState<number | null>(null);
  const end = history.time.at(-1) ?? 0;
  const scale = useRef(least);
  const lines = useMemo(() => series.map(({ column }) => history[column]), [history, series]);
  const highest = Math.max(least, ...lines.flat().map((value) => value ?? 0));
  // The scale grows at once, and shrinks when it is far too large: a scale that follows each point is unreadable.
  if (highest > scale.current || highest < scale.current / 4) scale.current = roundUp(highest);
  const limit = top ?? scale.current;
  const index = pointed === null ? history.time.length - 1 : nearest(history.time, end - (1 - pointed) * 300);
  const at = (column: number): number | null => lines[column]?.[index] ?? null;
  const ago = Math.round(end - (history.time[index] ?? end));

  const describe = () =>
    series
      .map(({ label }, number) => {
        const known = (lines[number] ?? []).filter((value): value is number => value !== null);
        if (known.length === 0) return `${label}: ${t("machine.nothing")}`;
        const values = { now: format(at(number)), low: format(Math.min(...known)), high: format(Math.max(...known)) };
        return `${label}: ${t("machine.chart.summary", values)}`;
      })
      .join("; ");

  return (
    <figure class="card chart">
      <figcaption>
        <h3>{title}</h3>
        <dl class="chart-now">
          {series.map(({ label }, number) => (
            <div key={label} class={`series-${number + 1}`}>
              <dt>{label}</dt>
              <dd>
                {format(at(number))}
                {unit !== "" && <span class="unit"> {unit}</span>}
              </dd>
            </div>
          ))}
        </dl>
      </figcaption>
      {asTable ? (
        <ChartTable title={title} history={history} series={series} format={format} />
      ) : (
        <div class="chart-place">
          <svg
            ref={place}
            viewBox="0 0 300 100"
            preserveAspectRatio="none"
            role="img"
            aria-label={`${title}. ${describe()}`}
            onPointerMove={(event) => {
              const box = event.currentTarget.getBoundingClientRect();
              setPointed(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
            }}
            onPointerLeave={() => setPointed(null)}
          >
            <path class="chart-grid" d="M0 0.5H300M0 50H300M0 99.5H300" />
            {series.map(({ column, filled }, number) => {
              const path = linePath(history.time, history[column], limit);
              return (
                <g key={column} class={`line-${number + 1}`}>
                  {filled && <path class="chart-area" d={path.area} />}
                  <path class="chart-line" d={path.line} />
                </g>
              );
            })}
            {pointed !== null && <path class="chart-pointer" d={`M${300 - ago} 0V100`} />}
          </svg>
          <span class="chart-top" aria-hidden="true">
            {format(limit)}
          </span>
          <span class="chart-when" aria-hidden="true">
            {pointed === null ? t("machine.chart.span") : t("machine.chart.ago", { seconds: ago })}
          </span>
        </div>
      )}
    </figure>
  );
}

function ChartTable({ title, history, series, format }: Pick<ChartProps, "title" | "history" | "series" | "format">) {
  const t = useTranslate();
  return (
    <Scroll label={title}>
      <table>
        <caption class="visually-hidden">{title}</caption>
        <thead>
          <tr>
            <th scope="col">{t("machine.chart.when")}</th>
            {series.map(({ label }) => (
              <th key={label} scope="col" class="figure">
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {tableRows(history, series, ROW_SECONDS).map(({ ago, values }) => (
            <tr key={ago}>
              <th scope="row">{ago === 0 ? t("machine.chart.now") : t("machine.chart.ago", { seconds: ago })}</th>
              {values.map((value, number) => (
                <td key={number} class="figure">
                  {format(value)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function nearest(times: number[], wanted: number): number {
  let best = times.length - 1;
  for (let index = best; index >= 0; index -= 1) {
    if (Math.abs((times[index] ?? 0) - wanted) <= Math.abs((times[best] ?? 0) - wanted)) best = index;
    else break;
  }
  return best;
}
