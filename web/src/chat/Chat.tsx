// The view of the chat: conversations, messages, the field to write in, parameters.

import "./chat.css";
import "./message.css";
import "../markdown/markdown.css";
import { useEffect, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { IconButton } from "../parts/Icon";
import { useNarrow } from "../parts/Panel";
import { keptStore } from "../preferences";
import { loadModels } from "../server/models";
import { Store, useStore } from "../store";
import { Composer } from "./Composer";
import { openChat, running, shownMessages } from "./chats";
import { attach } from "./composer_state";
import { HistoryButton, HistoryPanel } from "./HistoryPanel";
import { ModelChoice } from "./ModelChoice";
import { SettingsPanel } from "./SettingsPanel";
import { ShortcutList } from "./ShortcutList";
import { newChat, startShortcuts } from "./shortcuts";
import { Thread } from "./Thread";

const historyShown = keptStore("history-shown", true);
const settingsShown = new Store(false);
const listShown = new Store(false);

function toggle(store: Store<boolean>): () => void {
  return () => {
    store.value = !store.value;
  };
}

export function Chat() {
  const t = useTranslate();
  const chat = useStore(openChat);
  const replies = useStore(running);
  const receiving = shownMessages(chat).find(({ id }) => replies.has(id))?.id ?? null;
  const beside = useHistoryPanel();
  const settings = useStore(settingsShown);
  const list = useStore(listShown);
  const [dragged, setDragged] = useState(false);
  useEffect(() => void loadModels(), []);
  useEffect(
    () => startShortcuts({ history: beside.toggle, settings: toggle(settingsShown), list: toggle(listShown) }),
    [beside.toggle],
  );
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: the button beside the field attaches files, too
    <div
      class="chat"
      onDragOver={(event) => {
        event.preventDefault();
        setDragged(event.dataTransfer?.types.includes("Files") ?? false);
      }}
      onDragLeave={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) setDragged(false);
      }}
      onDrop={(event) => {
        event.preventDefault();
        setDragged(false);
        void attach([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      {beside.shown && <HistoryPanel onClose={beside.toggle} />}
      <div class="chat-middle">
        <div class="chat-bar">
          <HistoryButton shown={beside.shown} onClick={beside.toggle} />
          <IconButton name="plus" label={t("chat.new")} onClick={newChat} />
          <ModelChoice />
          <span class="chat-bar-end">
            <IconButton name="keys" label={t("chat.shortcuts")} onClick={toggle(listShown)} />
            <IconButton name="sliders" label={t("settings.show")} pressed={settings} onClick={toggle(settingsShown)} />
          </span>
        </div>
        <Thread />
        <Composer receiving={receiving} />
        {dragged && <div class="drop-hint">{t("composer.drop")}</div>}
      </div>
      {settings && <SettingsPanel onClose={toggle(settingsShown)} />}
      {list && <ShortcutList onClose={() => (listShown.value = false)} />}
    </div>
  );
}

/** Whether conversations are shown. On narrow screens they cover the chat, so there they are shown on demand alone. */
function useHistoryPanel(): { shown: boolean; toggle: () => void } {
  const narrow = useNarrow();
  const wide = useStore(historyShown);
  const over = useStore(historyOver);
  return narrow ? { shown: over, toggle: toggleOver } : { shown: wide, toggle: toggleWide };
}

const historyOver = new Store(false);
const toggleOver = toggle(historyOver);
const toggleWide = toggle(historyShown);
