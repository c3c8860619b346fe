// The served models: what each takes, loading and unloading, and pulling further ones.

import { useEffect, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { useStore } from "../store";
import type { ModelRow, Models } from "./answers";
import { Bar } from "./Bar";
import { number, percent, seconds, size } from "./figures";
import { change, followModels, models, pull, startPull, stopPull } from "./models_state";

export function ModelsSection() {
  const t = useTranslate();
  const found = useStore(models);
  const [problem, setProblem] = useState<string | null>(null);
  const [asked, setAsked] = useState<string | null>(null);
  useEffect(followModels, []);
  const act = async (action: "load" | "unload", name: string) => {
    setProblem(null);
    setAsked(name);
    try {
      await change(action, name);
    } catch (error) {
      setProblem(error instanceof Error && error.message !== "" ? error.message : t("connection.lost"));
    }
    setAsked(null);
  };
  return (
    <section aria-labelledby="models-title">
      <h2 id="models-title">{t("machine.models")}</h2>
      <p role="alert" class="problem">
        {problem}
      </p>
      {found === null ? (
        <p class="card empty">{t("common.loading")}</p>
      ) : (
        <>
          {found.on_demand && found.memory !== null && <Budget found={found} budget={found.memory} />}
          <ul class="models">
            {found.models.map((model) => (
              <Model
                key={model.name}
                model={model}
                onDemand={found.on_demand}
                busy={asked === model.name}
                onAct={(action) => void act(action, model.name)}
              />
            ))}
          </ul>
          <Pull found={found} />
        </>
      )}
    </section>
  );
}

function Budget({ found, budget }: { found: Models; budget: number }) {
  const t = useTranslate();
  const taken = found.models.reduce((sum, model) => sum + model.memory, 0);
  return (
    <p class="budget">
      <Bar parts={[{ part: budget > 0 ? taken / budget : 0, kind: "user-compute" }]} />
      <span class="soft figure">{t("machine.models.budget", { taken: size(taken), budget: size(budget) })}</span>
    </p>
  );
}

interface ModelProps {
  model: ModelRow;
  onDemand: boolean;
  busy: boolean;
  onAct: (action: "load" | "unload") => void;
}

function Model({ model, onDemand, busy, onAct }: ModelProps) {
  const t = useTranslate();
  const facts: [string, string][] = [];
  if (model.size !== null) facts.push([t("machine.model.size"), size(model.size)]);
  if (model.memory > 0) facts.push([t("machine.model.memory"), size(model.memory)]);
  if (model.context !== null) facts.push([t("machine.model.context"), number(model.context)]);
  if (model.slots > 0) facts.push([t("machine.requests"), `${number(model.running)} / ${number(model.slots)}`]);
  if (model.waiting > 0) facts.push([t("machine.waiting"), number(model.waiting)]);
  if (model.load_seconds !== null) facts.push([t("machine.model.load-time"), seconds(model.load_seconds)]);
  if (model.phase === "serving" && model.idle_seconds !== null)
    facts.push([t("machine.model.idle"), seconds(model.idle_seconds)]);
  return (
    <li class="card model" data-model={model.name} data-phase={model.phase}>
      <div class="model-head">
        <div>
          <h3 class="name">{model.name}</h3>
          {model.description !== null && <p class="soft">{model.description}</p>}
        </div>
        <span class={`badge phase-${model.phase}`}>{t(`machine.phase.${model.phase}`)}</span>
      </div>
      <dl class="model-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd class="figure">{value}</dd>
          </div>
        ))}
      </dl>
      {model.reason !== null && <p class="problem">{model.reason}</p>}
      {model.pinned && onDemand && <p class="soft">{t("machine.model.pinned")}</p>}
      {onDemand && (model.can_load || model.can_unload) && (
        <div class="model-actions">
          {model.can_load && (
            <button
              type="button"
              disabled={busy}
              aria-label={t("machine.model.load-one", { name: model.name })}
              onClick={() => onAct("load")}
            >
              {t("machine.model.load")}
            </button>
          )}
          {model.can_unload && (
            <button
              type="button"
              disabled={busy}
              aria-label={t("machine.model.unload-one", { name: model.name })}
              onClick={() => onAct("unload")}
            >
              {t("machine.model.unload")}
            </button>
          )}
        </div>
      )}
    </li>
  );
}

function Pull({ found }: { found: Models }) {
  const t = useTranslate();
  const now = useStore(pull);
  const [name, setName] = useState("");
  if (!found.pulls) return <p class="soft hint">{t("machine.pull.off")}</p>;
  const runs = now !== null && !now.ended;
  return (
    <div class="card pull">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (name.trim() !== "" && !runs) void startPull(name.trim());
        }}
      >
        <label class="field">
          {t("machine.pull.label")}
          <input
            value={name}
            placeholder="hf.co/ORG/REPO:Q4_K_M"
            autocomplete="off"
            spellcheck={false}
            onInput={(event) => setName(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary" disabled={runs || name.trim() === ""}>
          {t("machine.pull.start")}
        </button>
      </form>
      {!found.serves_pulled && <p class="soft">{t("machine.pull.unserved")}</p>}
      {now !== null && (
        <div class="pull-progress">
          <progress aria-label={t("machine.pull.progress", { name: now.name })} max={1} value={progressOf(now)} />
          <p role="status">
            <strong class="name">{now.name}</strong>{" "}
            {now.error !== null ? (
              <span class="problem">{now.error || t("connection.lost")}</span>
            ) : (
              <span>
                {now.ended ? t("machine.pull.done") : now.status}
                {now.part !== null && !now.ended && ` · ${percent(now.part)}`}
                {now.total !== null && !now.ended && ` · ${size(now.total)}`}
              </span>
            )}
          </p>
          <button type="button" class="small" onClick={stopPull}>
            {t(now.ended ? "common.close" : "machine.pull.stop")}
          </button>
        </div>
      )}
    </div>
  );
}

function progressOf(now: { ended: boolean; error: string | null; part: number | null }): number {
  return now.ended && now.error === null ? 1 : (now.part ?? 0);
}
