// The messages of the open conversation. It follows the reply's end while the reader is there.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { IconButton } from "../parts/Icon";
import { Store, useStore } from "../store";
import { openChat, running, shownMessages } from "./chats";
import { byParent, type Message, openCalls } from "./conversation";
import { MessageView } from "./MessageView";

/** Pixels from the end within which the reader counts as there. */
const NEAR = 80;
/** Characters of a reply that screen readers get at its end. */
const SPOKEN = 3000;
/** What screen readers say next. */
const spoken = new Store("");

export function Thread() {
  const t = useTranslate();
  const chat = useStore(openChat);
  useStore(running);
  const shown = shownMessages(chat);
  const place = useRef<HTMLDivElement>(null);
  const atEnd = useFollowing(place, chat.conversation?.id ?? null);
  useSpoken(shown);
  const versions = useMemo(() => byParent(chat.messages), [chat.messages]);
  const open = useMemo(() => new Set(openCalls(shown).map((call) => call.id)), [shown]);
  return (
    <div class="thread-frame">
      {/* Keys scroll it, so it can be focused. */}
      <section ref={place} class="thread" tabIndex={0} aria-label={t("chat.messages")}>
        <div class="thread-inside">
          {shown.length > 0 && <h1 class="visually-hidden">{chat.conversation?.title || t("chat.title")}</h1>}
          {shown.length === 0 && (
            <div class="welcome">
              <h1>{t("chat.welcome")}</h1>
              <p>{t("chat.welcome.hint")}</p>
            </div>
          )}
          {shown.map((message) => (
            <MessageView key={message.id} message={message} versions={versions.get(message.parent) ?? []} open={open} />
          ))}
        </div>
      </section>
      {!atEnd && (
        <IconButton
          name="down"
          class="to-end"
          label={t("chat.to-end")}
          onClick={() => place.current?.scrollTo({ top: place.current.scrollHeight })}
        />
      )}
      <div class="visually-hidden" aria-live="polite">
        <Spoken />
      </div>
    </div>
  );
}

function Spoken() {
  return <>{useStore(spoken)}</>;
}

/** Scrolls with what grows while the reader is at the end; whether they are. */
function useFollowing(place: { current: HTMLElement | null }, conversation: string | null): boolean {
  const [atEnd, setAtEnd] = useState(true);
  const follows = useRef(true);
  useEffect(() => {
    const element = place.current;
    const inside = element?.firstElementChild;
    if (!element || !inside) return;
    const look = () => {
      follows.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR;
      setAtEnd(follows.current);
    };
    const grown = new ResizeObserver(() => {
      if (follows.current) element.scrollTop = element.scrollHeight;
      look();
    });
    grown.observe(inside);
    element.addEventListener("scroll", look, { passive: true });
    return () => {
      grown.disconnect();
      element.removeEventListener("scroll", look);
    };
  }, [place]);
  useLayoutEffect(() => {
    follows.current = true;
    if (place.current !== null) place.current.scrollTop = place.current.scrollHeight;
  }, [place, conversation]);
  return atEnd;
}

/** Has screen readers say when a reply begins, and the reply when it has ended: a text that grows would be said in
 * pieces. */
function useSpoken(shown: readonly Message[]): void {
  const t = useTranslate();
  const last = shown.at(-1);
  const before = useRef<{ id: string; runs: boolean } | null>(null);
  const runs = last?.role === "assistant" && last.state === "running";
  useEffect(() => {
    const was = before.current;
    before.current = last === undefined ? null : { id: last.id, runs };
    if (last === undefined || was === null) return;
    if (runs && was.id !== last.id) spoken.value = t("message.begun");
    else if (!runs && was.id === last.id && was.runs) {
      spoken.value = t("message.ended", { text: last.failure?.message ?? last.content.slice(0, SPOKEN) });
    }
  }, [last, runs, t]);
}
