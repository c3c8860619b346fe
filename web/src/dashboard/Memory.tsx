// Where the engine's time goes, the KV cache, and what the processes take.

import { type TextName, useTranslate } from "../language/language";
import type { EnginePart, EngineStats, Live, Speed } from "./answers";
import { Bar } from "./Bar";
import { number, percent, rate, seconds, size } from "./figures";
import { Scroll } from "./Scroll";

const PARTS: EnginePart[] = ["decode", "schedule", "masks", "sample", "publish", "embeddings"];

export function Engines({ engines }: { engines: EngineStats[] }) {
  const t = useTranslate();
  if (engines.length === 0) return null;
  return (
    <section aria-labelledby="engines-title">
      <h2 id="engines-title">{t("machine.engines")}</h2>
      <ul class="engines">
        {engines.map((engine) => {
          const name = engine.model ?? t("machine.engine");
          const idle = Math.max(0, 1 - PARTS.reduce((sum, part) => sum + engine.parts[part], 0));
          const kv = engine.kv_cells > 0 ? engine.kv_used / engine.kv_cells : 0;
          const shownParts = PARTS.filter((part) => engine.parts[part] >= 0.005);
          return (
            <li key={engine.pid} class="card engine">
              <h3>{engines.length > 1 && engine.replica > 0 ? `${name} ${engine.replica}` : name}</h3>
              <dl class="facts">
                <div>
                  <dt>{t("machine.engine.time")}</dt>
                  <dd>
                    <Bar parts={PARTS.map((part) => ({ part: engine.parts[part], kind: `part-${part}` }))} />
                    <ul class="legend">
                      {shownParts.map((part) => (
                        <li key={part}>
                          <span class={`swatch part-${part}`} />
                          {t(`machine.part.${part}` as TextName)}{" "}
                          <span class="figure">{percent(engine.parts[part])}</span>
                        </li>
                      ))}
                      <li>
                        <span class="swatch part-idle" />
                        {t("machine.part.idle")} <span class="figure">{percent(idle)}</span>
                      </li>
                    </ul>
                  </dd>
                </div>
                <div>
                  <dt>{t("machine.engine.steps")}</dt>
                  <dd class="figure">
                    {engine.steps === 0
                      ? "–"
                      : t("machine.engine.steps-value", {
                          steps: number(engine.steps),
                          time: seconds(engine.step_seconds),
                          batch: number(engine.batch, 1),
                        })}
                  </dd>
                </div>
                <div>
                  <dt>{t("machine.engine.reads")}</dt>
                  <dd class="figure">{engine.read_rate === null ? "–" : `${size(engine.read_rate)}/s`}</dd>
                </div>
                {engine.speed !== null && <SpeedFact speed={engine.speed} />}
                <div>
                  <dt>{t("machine.chart.kv-title")}</dt>
                  <dd>
                    <Bar parts={[{ part: kv, kind: "user-compute" }]} />
                    <span class="figure">
                      {t("machine.engine.cells", {
                        used: number(engine.kv_used),
                        cells: number(engine.kv_cells),
                        part: percent(kv),
                      })}
                    </span>
                  </dd>
                </div>
              </dl>
            </li>
          );
        })}
      </ul>
    </section>
  );
}

/** The planned speed of a model that is divided between devices, beside the measured one. */
function SpeedFact({ speed }: { speed: Speed }) {
  const t = useTranslate();
  const measured = (value: number) => (value > 0 ? rate(value) : "–");
  return (
    <div>
      <dt>{t("machine.engine.speed")}</dt>
      <dd class="figure">
        {t("machine.engine.speed-decode", {
          measured: measured(speed.decode),
          predicted: rate(speed.predicted_decode),
        })}
      </dd>
      <dd class="figure">
        {t("machine.engine.speed-prompt", {
          measured: measured(speed.prompt),
          predicted: rate(speed.predicted_prompt),
        })}
      </dd>
      {speed.reason !== "" && <dd class="soft">{speed.reason}</dd>}
    </div>
  );
}

export function Memory({ live }: { live: Live }) {
  const t = useTranslate();
  const { machine } = live;
  const own = live.stats.processes.reduce((sum, process) => sum + process.memory, 0);
  const others = Math.max(0, machine.memory - machine.available - own);
  return (
    <section aria-labelledby="memory-title">
      <h2 id="memory-title">{t("machine.memory")}</h2>
      <div class="card">
        {machine.memory > 0 && (
          <div class="memory-bar">
            <Bar
              parts={[
                { part: own / machine.memory, kind: "user-compute" },
                { part: others / machine.memory, kind: "user-other" },
              ]}
            />
            <ul class="legend">
              <li>
                <span class="swatch user-compute" />
                {t("machine.memory.own")} <span class="figure">{size(own)}</span>
              </li>
              <li>
                <span class="swatch user-other" />
                {t("machine.memory.others")} <span class="figure">{size(others)}</span>
              </li>
              <li>
                <span class="swatch part-idle" />
                {t("machine.memory.free")} <span class="figure">{size(machine.available)}</span>
              </li>
              <li>
                {t("machine.memory.all")} <span class="figure">{size(machine.memory)}</span>
              </li>
            </ul>
          </div>
        )}
        <Scroll label={t("machine.processes")}>
          <table class="rows rows-still">
            <caption class="visually-hidden">{t("machine.processes")}</caption>
            <thead>
              <tr>
                <th scope="col">{t("machine.process")}</th>
                <th scope="col" class="figure">
                  {t("machine.process.cpu")}
                </th>
                <th scope="col" class="figure">
                  {t("machine.process.wait")}
                </th>
                <th scope="col" class="figure">
                  {t("machine.memory")}
                </th>
                <th scope="col" class="figure">
                  {t("machine.process.threads")}
                </th>
              </tr>
            </thead>
            <tbody>
              {live.stats.processes.map((process) => (
                <tr key={process.pid}>
                  <th scope="row">{process.role}</th>
                  <td class="figure">{percent(process.cpu)}</td>
                  <td class="figure">{percent(process.wait)}</td>
                  <td class="figure">{size(process.memory)}</td>
                  <td class="figure">{number(process.threads)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </div>
    </section>
  );
}
