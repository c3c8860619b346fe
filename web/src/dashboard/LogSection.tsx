// The last lines of all processes' logs, for the operator.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { wantKey } from "../server/key";
import { ask, ServerError } from "../server/request";
import type { Log, LogLine } from "./answers";
import { clock } from "./figures";
import { poll } from "./polling";

const SECONDS = 2;
/** Lines that the page keeps. */
const MAX_LINES = 500;
const LEVELS = ["debug", "info", "warning", "error", "critical"] as const;

export function LogSection({ operator, keys, started }: { operator: boolean; keys: boolean; started: number }) {
  const t = useTranslate();
  return (
    <section aria-labelledby="log-title">
      <h2 id="log-title">{t("machine.log")}</h2>
      {operator ? (
        // Another process numbers its lines anew.
        <Lines key={started} />
      ) : (
        <p class="card empty">
          {t(keys ? "machine.log.key" : "machine.log.local")}{" "}
          {keys && (
            <button type="button" class="small" onClick={wantKey}>
              {t("machine.key.other")}
            </button>
          )}
        </p>
      )}
    </section>
  );
}

function Lines() {
  const t = useTranslate();
  const [lines, setLines] = useState<LogLine[]>([]);
  const [least, setLeast] = useState<(typeof LEVELS)[number]>("debug");
  const place = useRef<HTMLOListElement>(null);
  const atEnd = useRef(true);
  useEffect(() => {
    let last = 0;
    return poll(SECONDS, async (signal) => {
      try {
        const log = await ask<Log>(`stats/log?after=${last}`, undefined, signal);
        last = log.last;
        if (log.lines.length > 0) setLines((known) => [...known, ...log.lines].slice(-MAX_LINES));
      } catch (error) {
        // The key was changed meanwhile: the next answer of the server says what it may see.
        if (!(error instanceof ServerError && error.status === 403)) throw error;
      }
    });
  }, []);
  const shown = lines.filter(({ level }) => LEVELS.indexOf(level) >= LEVELS.indexOf(least));
  // A reader who has scrolled up reads there on.
  useLayoutEffect(() => {
    if (atEnd.current && place.current !== null) place.current.scrollTop = place.current.scrollHeight;
  }, [shown.length, shown.at(-1)?.number]);
  return (
    <div class="card log">
      <label class="log-level">
        {t("machine.log.level")}
        <select value={least} onChange={(event) => setLeast(event.currentTarget.value as (typeof LEVELS)[number])}>
          {LEVELS.map((level) => (
            <option key={level} value={level}>
              {t(`machine.level.${level}`)}
            </option>
          ))}
        </select>
      </label>
      <ol
        ref={place}
        class="log-lines"
        aria-label={t("machine.log")}
        tabIndex={0}
        onScroll={(event) => {
          const list = event.currentTarget;
          atEnd.current = list.scrollHeight - list.scrollTop - list.clientHeight < 24;
        }}
      >
        {shown.length === 0 && <li class="soft">{t("machine.log.none")}</li>}
        {shown.map((line) => (
          <li key={line.number} class={`log-line level-${line.level}`}>
            <time dateTime={new Date(line.time * 1000).toISOString()}>{clock(line.time)}</time>
            <span class="log-level-name">{t(`machine.level.${line.level}`)}</span>
            <span class="log-process">{line.process}</span>
            <span class="log-text">{line.text}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}
