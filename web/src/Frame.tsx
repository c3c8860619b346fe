// The frame: the bar with views, language and appearance, the notice of a lost connection, and the view.

import { useEffect } from "preact/hooks";
import { Chat } from "./chat/Chat";
import { openChat } from "./chat/chats";
import { Dashboard } from "./dashboard/Dashboard";
import { LANGUAGES, type Language, language, useTranslate } from "./language/language";
import { KeyDialog } from "./parts/KeyDialog";
import { route } from "./route";
import { reachable } from "./server/connection";
import { useStore } from "./store";
import { type Theme, theme } from "./theme";

const THEMES: Theme[] = ["system", "light", "dark"];

export function Frame() {
  const t = useTranslate();
  const { view } = useStore(route);
  const { conversation } = useStore(openChat);
  const title = view === "machine" ? t("machine.title") : conversation?.title;
  useEffect(() => {
    document.title = title ? `${title} · ${t("app.name")}` : t("app.name");
  }, [title, t]);
  return (
    <>
      <a class="skip" href="#content" onClick={skip}>
        {t("nav.skip")}
      </a>
      <header class="bar">
        <span class="bar-name">{t("app.name")}</span>
        <nav aria-label={t("nav.views")}>
          <a href="#/chat" aria-current={view === "chat" ? "page" : undefined}>
            {t("nav.chat")}
          </a>
          <a href="#/machine" aria-current={view === "machine" ? "page" : undefined}>
            {t("nav.machine")}
          </a>
        </nav>
        <Choices />
      </header>
      <ConnectionNotice />
      <main id="content" tabIndex={-1} class={`view view-${view}`}>
        {view === "machine" ? <Dashboard /> : <Chat />}
      </main>
      <KeyDialog />
    </>
  );
}

// The hash names the view, so the link can't be followed as it is.
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function Choices() {
  const t = useTranslate();
  const chosen = useStore(theme);
  return (
    <div class="choices">
      <select
        aria-label={t("language.label")}
        value={language.value}
        onChange={(event) => {
          language.value = event.currentTarget.value as Language;
        }}
      >
        {Object.entries(LANGUAGES).map(([code, name]) => (
          <option key={code} value={code} lang={code}>
            {name}
          </option>
        ))}
      </select>
      <select
        aria-label={t("theme.label")}
        value={chosen}
        onChange={(event) => {
          theme.value = event.currentTarget.value as Theme;
        }}
      >
        {THEMES.map((name) => (
          <option key={name} value={name}>
            {t(`theme.${name}`)}
          </option>
        ))}
      </select>
    </div>
  );
}

function ConnectionNotice() {
  const t = useTranslate();
  const lost = !useStore(reachable);
  return (
    <div role="status" class={lost ? "notice notice-lost" : "notice"}>
      {lost ? t("connection.lost") : ""}
    </div>
  );
}
