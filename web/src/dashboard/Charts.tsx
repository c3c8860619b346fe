// The charts of the last five minutes: throughput, latencies, queue and KV cache.

import { useMemo } from "preact/hooks";
import { useTranslate } from "../language/language";
import { keptStore } from "../preferences";
import { useStore } from "../store";
import type { History } from "./answers";
import { Chart } from "./Chart";
import { number, percent, rate, seconds } from "./figures";
import type { Series } from "./lines";

const asTables = keptStore("charts-as-tables", false);

export function Charts({ history }: { history: History }) {
  const t = useTranslate();
  const tables = useStore(asTables);
  const series = useMemo<Record<string, Series[]>>(
    () => ({
      reply: [{ column: "generated", label: t("machine.chart.reply"), filled: true }],
      prompt: [{ column: "prompt", label: t("machine.chart.prompt"), filled: true }],
      first: [
        { column: "first_token_p50", label: t("machine.median") },
        { column: "first_token_p99", label: "p99" },
      ],
      gaps: [
        { column: "inter_token_p50", label: t("machine.median") },
        { column: "inter_token_p99", label: "p99" },
      ],
      requests: [
        { column: "running", label: t("machine.running"), filled: true },
        { column: "waiting", label: t("machine.waiting") },
      ],
      kv: [{ column: "kv_part", label: t("machine.kv.used"), filled: true }],
    }),
    [t("machine.title")],
  );
  const perSecond = (value: number | null) => (value === null ? "–" : rate(value));
  const count = (value: number | null) => (value === null ? "–" : number(value));
  const part = (value: number | null) => (value === null ? "–" : percent(value));
  const common = { history, asTable: tables };
  return (
    <section aria-labelledby="charts-title">
      <div class="section-head">
        <h2 id="charts-title">{t("machine.charts")}</h2>
        <button
          type="button"
          class="quiet small"
          aria-pressed={tables}
          onClick={() => {
            asTables.value = !tables;
          }}
        >
          {t("machine.tables")}
        </button>
      </div>
      <div class="charts">
        <Chart
          {...common}
          title={t("machine.chart.reply-title")}
          series={series.reply ?? []}
          format={perSecond}
          unit={t("machine.unit.tokens-second")}
          least={10}
        />
        <Chart
          {...common}
          title={t("machine.chart.prompt-title")}
          series={series.prompt ?? []}
          format={perSecond}
          unit={t("machine.unit.tokens-second")}
          least={10}
        />
        <Chart
          {...common}
          title={t("machine.chart.requests-title")}
          series={series.requests ?? []}
          format={count}
          least={2}
        />
        <Chart
          {...common}
          title={t("machine.chart.first-title")}
          series={series.first ?? []}
          format={seconds}
          least={0.01}
        />
        <Chart
          {...common}
          title={t("machine.chart.gaps-title")}
          series={series.gaps ?? []}
          format={seconds}
          least={0.01}
        />
        <Chart {...common} title={t("machine.chart.kv-title")} series={series.kv ?? []} format={part} top={1} />
      </div>
    </section>
  );
}
