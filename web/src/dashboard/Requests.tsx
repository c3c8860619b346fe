// The requests that run or wait: their states, their tokens, and a button that ends one.

import { useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { wantKey } from "../server/key";
import { send } from "../server/request";
import type { Live, RequestRow } from "./answers";
import { Bar } from "./Bar";
import { number, rate, seconds } from "./figures";
import { Scroll } from "./Scroll";

export function Requests({ live }: { live: Live }) {
  const t = useTranslate();
  const [cancelled, setCancelled] = useState<ReadonlySet<number>>(new Set());
  const [problem, setProblem] = useState<string | null>(null);
  const cancel = async (row: RequestRow) => {
    setCancelled(new Set([...cancelled, row.number]));
    setProblem(null);
    try {
      await send(`stats/requests/${row.number}`, { method: "DELETE" });
    } catch (error) {
      setProblem(error instanceof Error && error.message !== "" ? error.message : t("connection.lost"));
    }
  };
  return (
    <section aria-labelledby="requests-title">
      <h2 id="requests-title">
        {t("machine.requests")} <span class="soft figure">{number(live.requests.length)}</span>
      </h2>
      <p role="alert" class="problem">
        {problem}
      </p>
      {live.requests.length === 0 ? (
        <p class="card empty">{t("machine.requests.none")}</p>
      ) : (
        <div class="card">
          <Scroll label={t("machine.requests")}>
            <table class="rows">
              <caption class="visually-hidden">{t("machine.requests")}</caption>
              <thead>
                <tr>
                  <th scope="col">{t("machine.request.state")}</th>
                  <th scope="col">{t("machine.request.model")}</th>
                  <th scope="col">{t("machine.request.client")}</th>
                  <th scope="col" class="figure">
                    {t("machine.request.prompt")}
                  </th>
                  <th scope="col" class="figure">
                    {t("machine.request.reply")}
                  </th>
                  <th scope="col" class="figure">
                    {t("machine.request.rate")}
                  </th>
                  <th scope="col" class="figure">
                    {t("machine.request.first")}
                  </th>
                  <th scope="col" class="figure">
                    {t("machine.request.age")}
                  </th>
                  <th scope="col">
                    <span class="visually-hidden">{t("machine.request.actions")}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {live.requests.map((row) => (
                  <Row key={row.number} row={row} gone={cancelled.has(row.number)} onCancel={() => void cancel(row)} />
                ))}
              </tbody>
            </table>
          </Scroll>
        </div>
      )}
      {live.hidden_requests > 0 && (
        <p class="soft hint">
          {t(live.operator ? "machine.requests.more" : "machine.requests.hidden", { count: live.hidden_requests })}
          {!live.operator && live.keys && (
            <button type="button" class="quiet small" onClick={wantKey}>
              {t("machine.key.other")}
            </button>
          )}
        </p>
      )}
    </section>
  );
}

function Row({ row, gone, onCancel }: { row: RequestRow; gone: boolean; onCancel: () => void }) {
  const t = useTranslate();
  const done = row.state === "prompt" && row.prompt_tokens ? row.prompt_computed / row.prompt_tokens : null;
  return (
    <tr data-state={row.state}>
      <td>
        <span class={`badge state-${row.state}`}>{t(`machine.state.${row.state}`)}</span>
      </td>
      <td data-label={t("machine.request.model")}>
        <span class="name">{row.model ?? "–"}</span>
        <span class="soft block">{row.dialect}</span>
      </td>
      <td data-label={t("machine.request.client")}>
        <span class="name" title={row.request_id}>
          {row.client}
        </span>
        {row.own && <span class="soft block">{t("machine.request.own")}</span>}
      </td>
      <td class="figure" data-label={t("machine.request.prompt")}>
        {row.prompt_tokens === null ? "–" : number(row.prompt_tokens)}
        {done !== null && (
          <span class="block">
            <Bar parts={[{ part: done, kind: "user-compute" }]} />
            <span class="visually-hidden">{t("machine.request.computed", { count: number(row.prompt_computed) })}</span>
          </span>
        )}
        {done === null && row.cached_tokens > 0 && (
          <span class="soft block">{t("machine.request.cached", { count: number(row.cached_tokens) })}</span>
        )}
      </td>
      <td class="figure" data-label={t("machine.request.reply")}>
        {number(row.reply_tokens)}
        {row.max_tokens !== null && (
          <span class="soft block">{t("machine.request.most", { count: number(row.max_tokens) })}</span>
        )}
      </td>
      <td class="figure" data-label={t("machine.request.rate")}>
        {row.rate === null ? "–" : rate(row.rate)}
      </td>
      <td class="figure" data-label={t("machine.request.first")}>
        {seconds(row.first_token)}
      </td>
      <td class="figure" data-label={t("machine.request.age")}>
        {seconds(row.age)}
      </td>
      <td class="actions">
        <button
          type="button"
          class="small danger"
          disabled={gone}
          aria-label={t("machine.request.cancel-one", { number: row.number })}
          onClick={onCancel}
        >
          {t("machine.request.cancel")}
        </button>
      </td>
    </tr>
  );
}
