// The view of the machine: what limits it, how it has been, and what it does now.

import "./dashboard.css";
import { useTranslate } from "../language/language";
import { reachable } from "../server/connection";
import { wantKey } from "../server/key";
import { useStore } from "../store";
import type { Live } from "./answers";
import { Charts } from "./Charts";
import { Cores } from "./Cores";
import { Devices } from "./Devices";
import { Findings } from "./Findings";
import { clock, seconds } from "./figures";
import { LogSection } from "./LogSection";
import { dismissRestart, history, needsKey, shown, useLive } from "./live";
import { Engines, Memory } from "./Memory";
import { ModelsSection } from "./ModelsSection";
import { Requests } from "./Requests";

export function Dashboard() {
  const t = useTranslate();
  const now = useStore(shown);
  const past = useStore(history);
  const reached = useStore(reachable);
  const refused = useStore(needsKey);
  useLive();
  return (
    <div class={reached ? "dashboard" : "dashboard dashboard-old"}>
      <Head live={now?.live ?? null} reached={reached} />
      <div role="status">
        {now !== null && now.restartedAt !== null && (
          <p class="card restarted">
            {t("machine.restarted", { time: clock(now.restartedAt / 1000) })}
            <button type="button" class="quiet small" onClick={dismissRestart}>
              {t("common.close")}
            </button>
          </p>
        )}
      </div>
      {refused && <NeedsKey />}
      {now !== null && <Findings findings={now.live.stats.findings} />}
      {(now !== null || past.time.length > 0) && <Charts history={past} />}
      {now === null && !refused && <p class="card empty">{t("common.loading")}</p>}
      {now !== null && (
        <>
          <Requests live={now.live} />
          <Cores cores={now.live.cores} />
          <Devices hardware={now.live.stats.hardware} shares={now.live.stats.devices} />
          <div class="columns">
            <Engines engines={now.live.stats.engines} />
            <Memory live={now.live} />
          </div>
          <ModelsSection />
          <LogSection operator={now.live.operator} keys={now.live.keys} started={now.live.started} />
        </>
      )}
    </div>
  );
}

function NeedsKey() {
  const t = useTranslate();
  return (
    <p class="card empty">
      {t("machine.key.any")}{" "}
      <button type="button" class="small" onClick={wantKey}>
        {t("machine.key.give")}
      </button>
    </p>
  );
}

function Head({ live, reached }: { live: Live | null; reached: boolean }) {
  const t = useTranslate();
  const state = reached ? (live?.state ?? "loading") : "away";
  return (
    <div class="dashboard-head">
      <h1>{t("machine.title")}</h1>
      {live !== null && (
        <p class="dashboard-facts">
          <span class={`badge server-${state}`}>{t(`machine.server.${state}`)}</span>
          <span class="name">{live.stats.model}</span>
          <span class="soft figure">
            {t("machine.uptime", { time: seconds(Math.max(0, live.time - live.started)) })}
          </span>
          <span class="soft">tailrace {live.version}</span>
        </p>
      )}
    </div>
  );
}
