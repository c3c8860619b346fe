// The list of conversations, and what can be done with one: open, rename, export, delete.

import { useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { IconButton } from "../parts/Icon";
import { Panel, useNarrow } from "../parts/Panel";
import { chatAddress, go } from "../route";
import { useStore } from "../store";
import { addConversations, conversations, openChat, removeConversation, rename } from "./chats";
import type { Conversation } from "./conversation";
import { historyProblem } from "./history";
import { parseExport, saveJson, saveMarkdown } from "./transfer";

export function HistoryPanel({ onClose }: { onClose: () => void }) {
  const t = useTranslate();
  const all = useStore(conversations);
  const problem = useStore(historyProblem);
  const [search, setSearch] = useState("");
  const words = search.trim().toLowerCase();
  const found = all.filter((one) => one.title.toLowerCase().includes(words));
  return (
    <Panel title={t("chat.history")} side="left" onClose={onClose}>
      <input
        type="search"
        class="panel-search"
        aria-label={t("chat.history.search")}
        placeholder={t("chat.history.search")}
        value={search}
        onInput={(event) => setSearch(event.currentTarget.value)}
      />
      {problem !== null && <p class="problem">{t("chat.history.problem", { reason: problem })}</p>}
      {all.length === 0 && <p class="panel-hint">{t("chat.history.empty")}</p>}
      <ul class="conversations">
        {found.map((one) => (
          <Entry key={one.id} conversation={one} onOpened={onClose} />
        ))}
      </ul>
      <Transfer ids={all.map(({ id }) => id)} />
    </Panel>
  );
}

function Entry({ conversation, onOpened }: { conversation: Conversation; onOpened: () => void }) {
  const t = useTranslate();
  const narrow = useNarrow();
  const current = useStore(openChat).conversation?.id === conversation.id;
  const [renaming, setRenaming] = useState(false);
  const { id, title } = conversation;
  return (
    <li class={current ? "conversation conversation-current" : "conversation"}>
      {renaming ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            const given = new FormData(event.currentTarget).get("title");
            if (typeof given === "string" && given.trim() !== "") rename(id, given.trim());
            setRenaming(false);
          }}
        >
          <input
            name="title"
            aria-label={t("chat.rename.label")}
            defaultValue={title}
            ref={(element) => element?.focus()}
            onKeyDown={(event) => {
              if (event.key !== "Escape") return;
              event.stopPropagation();
              event.preventDefault();
              setRenaming(false);
            }}
          />
        </form>
      ) : (
        <a
          href={chatAddress(id)}
          aria-current={current ? "true" : undefined}
          onClick={(event) => {
            if (event.ctrlKey || event.metaKey || event.shiftKey) return;
            event.preventDefault();
            go(chatAddress(id));
            if (narrow) onOpened();
          }}
        >
          {title || "…"}
        </a>
      )}
      <Menu conversation={conversation} onRename={() => setRenaming(true)} />
    </li>
  );
}

function Menu({ conversation, onRename }: { conversation: Conversation; onRename: () => void }) {
  const t = useTranslate();
  const [sure, setSure] = useState(false);
  const place = useRef<HTMLDetailsElement>(null);
  const { id, title } = conversation;
  const close = () => {
    setSure(false);
    if (place.current !== null) place.current.open = false;
  };
  const act = (work: () => void) => () => {
    close();
    work();
  };
  return (
    <details
      ref={place}
      class="menu"
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !place.current?.open) return;
        event.stopPropagation();
        event.preventDefault();
        close();
        place.current.querySelector("summary")?.focus();
      }}
      onFocusOut={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget as Node | null)) close();
      }}
    >
      <summary aria-label={t("chat.menu", { title })} title={t("chat.menu", { title })}>
        ⋯
      </summary>
      <div class="menu-items">
        <button type="button" class="quiet" onClick={act(onRename)}>
          {t("chat.rename")}
        </button>
        <button type="button" class="quiet" onClick={act(() => void saveMarkdown(id))}>
          {t("chat.save.markdown")}
        </button>
        <button type="button" class="quiet" onClick={act(() => void saveJson([id]))}>
          {t("chat.save.json")}
        </button>
        <button
          type="button"
          class="quiet danger"
          onClick={() => (sure ? act(() => void removeConversation(id))() : setSure(true))}
        >
          {t(sure ? "chat.delete.sure" : "chat.delete")}
        </button>
      </div>
    </details>
  );
}

function Transfer({ ids }: { ids: readonly string[] }) {
  const t = useTranslate();
  const picker = useRef<HTMLInputElement>(null);
  const [said, setSaid] = useState("");
  const take = async (file: File) => {
    try {
      const found = parseExport(await file.text());
      await addConversations(found);
      setSaid(t("chat.history.imported", { count: found.length }));
    } catch {
      setSaid(t("chat.history.no-import"));
    }
  };
  return (
    <div class="panel-foot">
      <input
        ref={picker}
        type="file"
        accept="application/json,.json"
        hidden
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file !== undefined) void take(file);
          event.currentTarget.value = "";
        }}
      />
      <button type="button" class="quiet" onClick={() => picker.current?.click()}>
        {t("chat.history.import")}
      </button>
      <button type="button" class="quiet" disabled={ids.length === 0} onClick={() => void saveJson(ids)}>
        {t("chat.history.export")}
      </button>
      <span role="status">{said}</span>
    </div>
  );
}

/** The button that shows the panel. */
export function HistoryButton({ shown, onClick }: { shown: boolean; onClick: () => void }) {
  const t = useTranslate();
  return <IconButton name="menu" label={t("chat.history.show")} pressed={shown} onClick={onClick} />;
}
