// A reply's figures: speed, time to the first token, tokens.

import { useTranslate } from "../language/language";
import type { Figures } from "./conversation";

export function FiguresLine({ figures, model }: { figures: Figures; model: string | undefined }) {
  const t = useTranslate();
  const parts = [
    model ?? null,
    figures.perSecond === null ? null : t("figures.speed", { value: rounded(figures.perSecond) }),
    t("figures.first", { value: rounded(figures.firstTokenSeconds) }),
    figures.tokens === null ? null : t("figures.tokens", { value: figures.tokens }),
    figures.promptTokens === null ? null : t("figures.prompt", { value: figures.promptTokens }),
    figures.cachedTokens ? t("figures.cached", { value: figures.cachedTokens }) : null,
  ];
  return (
    <ul class="figures" aria-label={t("figures.label")}>
      {parts
        .filter((part) => part !== null)
        .map((part) => (
          <li key={part}>{part}</li>
        ))}
    </ul>
  );
}

/** Three significant digits. */
function rounded(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
