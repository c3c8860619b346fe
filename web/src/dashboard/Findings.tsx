// What limits the server now, and the advice: the server's own words, with their meaning in the page's language.

import { findings as chineseFindings } from "../language/chinese/findings";
import { language, useTranslate } from "../language/language";
import { useStore } from "../store";
import type { Finding } from "./answers";

/** The text with its `code` in code's type. */
function Words({ text }: { text: string }) {
  const parts = text.split("`");
  return <>{parts.map((part, index) => (index % 2 === 1 ? <code key={index}>{part}</code> : part))}</>;
}

export function Findings({ findings }: { findings: Finding[] }) {
  const t = useTranslate();
  const chosen = useStore(language);
  return (
    <section aria-labelledby="limits-title">
      <h2 id="limits-title">{t("machine.limits")}</h2>
      <ul class="findings">
        {findings.map((finding) => {
          const own = chosen === "zh" ? chineseFindings[finding.code] : undefined;
          const advice = own?.advice ?? finding.advice;
          return (
            <li key={finding.code} class={`card finding finding-${finding.severity}`} data-code={finding.code}>
              <p class="finding-head">
                <span class={`badge badge-${finding.severity}`}>{t(`machine.severity.${finding.severity}`)}</span>
                {own !== undefined && <strong>{own.meaning}</strong>}
              </p>
              <p class="finding-sentence" lang={own === undefined ? undefined : "en"}>
                <Words text={finding.sentence} />
              </p>
              {advice !== "" && (
                <p class="finding-advice">
                  <Words text={advice} />
                </p>
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}
