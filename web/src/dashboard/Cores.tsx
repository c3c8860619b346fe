// The CPUs, and who uses them: a tile for each, with the parts of its time and the threads that ran there last.

import { type TextName, useTranslate } from "../language/language";
import type { CoreUse, User } from "./answers";
import { Bar } from "./Bar";
import { percent } from "./figures";

const USERS: User[] = ["compute", "engine", "http", "supervisor", "other", "stolen"];
/** CPUs up to which each tile names its threads. */
const MAX_DETAILED = 32;

export function Cores({ cores }: { cores: CoreUse[] }) {
  const t = useTranslate();
  const name = (user: User) => t(`machine.user.${user}` as TextName);
  const nodes = [...new Set(cores.map(({ node }) => node))];
  const seen = USERS.filter((user) => cores.some(({ use }) => (use[user] ?? 0) > 0));
  const siblings = new Map<number, number>();
  for (const { core } of cores) siblings.set(core, (siblings.get(core) ?? 0) + 1);
  return (
    <section aria-labelledby="cores-title">
      <div class="section-head">
        <h2 id="cores-title">{t("machine.cores")}</h2>
        <ul class="legend" aria-label={t("machine.legend")}>
          {(seen.length > 0 ? seen : (["compute"] as User[])).map((user) => (
            <li key={user}>
              <span class={`swatch user-${user}`} />
              {name(user)}
            </li>
          ))}
        </ul>
      </div>
      {nodes.map((node) => (
        <div key={node}>
          {nodes.length > 1 && <h3>{t("machine.node", { node })}</h3>}
          <ul class={cores.length > MAX_DETAILED ? "cores cores-many" : "cores"}>
            {cores
              .filter((core) => core.node === node)
              .map((core) => {
                const busy = USERS.reduce((sum, user) => sum + (core.use[user] ?? 0), 0);
                const smt = (siblings.get(core.core) ?? 1) > 1;
                return (
                  <li key={core.cpu} class={core.usable ? "card core" : "card core core-unusable"}>
                    <p class="core-head">
                      <span>
                        {t("machine.cpu", { cpu: core.cpu })}
                        {smt && <span class="soft"> {t("machine.core", { core: core.core })}</span>}
                      </span>
                      <span class="figure">{percent(busy)}</span>
                    </p>
                    <Bar parts={USERS.map((user) => ({ part: core.use[user] ?? 0, kind: `user-${user}` }))} />
                    {cores.length <= MAX_DETAILED && (
                      <ul class="core-threads">
                        {USERS.filter((user) => user === "other" || user === "stolen")
                          .filter((user) => (core.use[user] ?? 0) >= 0.01)
                          .map((user) => (
                            <li key={user}>
                              <span>
                                <span class={`swatch user-${user}`} />
                                {name(user)}
                              </span>
                              <span class="figure">{percent(core.use[user] ?? 0)}</span>
                            </li>
                          ))}
                        {core.threads.map((thread, index) => (
                          <li key={index}>
                            <span>
                              <span class={`swatch user-${thread.user}`} />
                              {thread.user === "compute" ? name("compute") : thread.name}
                            </span>
                            <span class="figure">{percent(Math.min(1, thread.cpu))}</span>
                          </li>
                        ))}
                      </ul>
                    )}
                    {!core.usable && <p class="soft">{t("machine.core.unusable")}</p>}
                  </li>
                );
              })}
          </ul>
        </div>
      ))}
    </section>
  );
}
