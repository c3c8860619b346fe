// One message: its text, its files, and what can be done with it.

import { useEffect, useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { Markdown } from "../markdown/Markdown";
import { copyText } from "../parts/copy";
import { IconButton } from "../parts/Icon";
import { Store, useStore } from "../store";
import { choose, continueReply, editMessage, regenerate, running } from "./chats";
import type { Message } from "./conversation";
import { FiguresLine } from "./FiguresLine";
import type { Live, RunningReply } from "./running_reply";
import { CallResult, ToolCalls } from "./ToolCalls";

interface MessageProps {
  message: Message;
  /** The messages in the same place, this one included. */
  versions: readonly Message[];
  /** Calls of this reply that wait for an answer. */
  open: ReadonlySet<string>;
}

export function MessageView({ message, versions, open }: MessageProps) {
  const t = useTranslate();
  const [editing, setEditing] = useState(false);
  const reply = useStore(running).get(message.id);
  if (message.role === "tool") return <CallResult message={message} />;
  const own = message.role === "user";
  return (
    <article
      class={own ? "message message-own" : "message message-reply"}
      aria-label={t(own ? "chat.you" : "chat.reply")}
      aria-busy={reply !== undefined}
      data-state={message.state}
    >
      {own && editing && <Editor message={message} onClose={() => setEditing(false)} />}
      {own && !editing && <OwnText message={message} />}
      {!own && <Reply message={message} reply={reply} open={open} />}
      {!editing && reply === undefined && (
        <footer class="message-foot">
          <Versions message={message} versions={versions} />
          <Actions message={message} onEdit={() => setEditing(true)} />
          {message.figures && <FiguresLine figures={message.figures} model={message.model} />}
        </footer>
      )}
    </article>
  );
}

function OwnText({ message }: { message: Message }) {
  return (
    <div class="bubble">
      {(message.files?.length ?? 0) > 0 && (
        <ul class="files">
          {message.files?.map((file) => (
            <li key={file.name} class="file">
              {file.name}
            </li>
          ))}
        </ul>
      )}
      {message.content}
    </div>
  );
}

const NOT_RUNNING = new Store<Live | null>(null);

interface ReplyProps {
  message: Message;
  /** The running request, while this tab receives the reply. */
  reply: RunningReply | undefined;
  open: ReadonlySet<string>;
}

/** A reply: one component while it comes and when it is whole, so that its end renders nothing again. */
function Reply({ message, reply, open }: ReplyProps) {
  const live = useStore<Live | null>(reply?.live ?? NOT_RUNNING);
  const { content, reasoning, calls } = live ?? message;
  return (
    <>
      <Reasoning text={reasoning ?? ""} running={live !== null && content === ""} />
      {content !== "" && <Markdown text={content} />}
      <ToolCalls calls={calls ?? []} open={open} />
      {live === null ? <Ending message={message} /> : <Coming live={live} />}
    </>
  );
}

/** What is said of a reply that comes: why nothing is there yet, and its figures so far. */
function Coming({ live }: { live: Live }) {
  const t = useTranslate();
  const begun = live.content !== "" || live.reasoning !== "" || live.calls.length > 0;
  return (
    <>
      {(!begun || live.waiting !== null) && <p class="pending">{pendingText(live, t)}</p>}
      {live.figures && (
        <footer class="message-foot">
          <FiguresLine figures={live.figures} model={undefined} />
        </footer>
      )}
    </>
  );
}

function pendingText(live: Live, t: ReturnType<typeof useTranslate>): string {
  if (live.waiting === "server") return t("message.wait.server");
  if (live.waiting === "key") return t("message.wait.key");
  if (live.waiting !== null) return t("message.wait.other", { reason: live.waiting });
  if (live.progress !== null) return t("message.reading", { percent: Math.round(live.progress * 100) });
  return t("message.queued");
}

function Ending({ message }: { message: Message }) {
  const t = useTranslate();
  const empty = message.content === "" && !message.reasoning && !message.calls?.length;
  switch (message.state) {
    case "running":
      return <p class="pending">{t("message.elsewhere")}</p>;
    case "failed":
      return (
        <p class="problem" role="alert">
          {t("message.failed")} {message.failure?.message}
        </p>
      );
    case "cut":
    case "length":
    case "stopped":
      return <p class={message.state === "cut" ? "problem" : "pending"}>{t(`message.${message.state}`)}</p>;
    default:
      return empty ? <p class="pending">{t("message.empty")}</p> : null;
  }
}

function Reasoning({ text, running: comes }: { text: string; running: boolean }) {
  const t = useTranslate();
  if (text === "") return null;
  return (
    <details class="reasoning">
      <summary>{t(comes ? "message.reasoning.running" : "message.reasoning")}</summary>
      <Markdown text={text} />
    </details>
  );
}

function Actions({ message, onEdit }: { message: Message; onEdit: () => void }) {
  const t = useTranslate();
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await copyText(message.content);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  const own = message.role === "user";
  const unfinished = ["cut", "length", "stopped"].includes(message.state) && message.content !== "";
  return (
    <div class="message-actions">
      <IconButton
        name={copied ? "done" : "copy"}
        label={t(copied ? "copy.done" : "copy.message")}
        onClick={() => void copy()}
      />
      {own && <IconButton name="edit" label={t("message.edit")} onClick={onEdit} />}
      {!own && message.state !== "running" && (
        <IconButton name="again" label={t("message.regenerate")} onClick={() => void regenerate(message)} />
      )}
      {!own && unfinished && (
        <IconButton name="on" label={t("message.continue")} onClick={() => void continueReply(message)} />
      )}
    </div>
  );
}

function Versions({ message, versions }: { message: Message; versions: readonly Message[] }) {
  const t = useTranslate();
  if (versions.length < 2) return null;
  const index = versions.findIndex((other) => other.id === message.id);
  const [before, after] = [versions[index - 1], versions[index + 1]];
  return (
    <div class="versions">
      <IconButton
        name="left"
        label={t("message.previous")}
        disabled={before === undefined}
        onClick={() => before && choose(before)}
      />
      <span role="img" aria-label={t("message.version", { index: index + 1, count: versions.length })}>
        {index + 1}/{versions.length}
      </span>
      <IconButton
        name="right"
        label={t("message.next")}
        disabled={after === undefined}
        onClick={() => after && choose(after)}
      />
    </div>
  );
}

function Editor({ message, onClose }: { message: Message; onClose: () => void }) {
  const t = useTranslate();
  const [text, setText] = useState(message.content);
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = (event: Event) => {
    event.preventDefault();
    if (text.trim() === "") return;
    onClose();
    void editMessage(message, text.trim());
  };
  return (
    <form
      class="editor"
      onSubmit={submit}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        onClose();
      }}
    >
      <textarea
        ref={field}
        aria-label={t("message.edit.label")}
        rows={Math.min(16, text.split("\n").length + 1)}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <div class="dialog-actions">
        <button type="button" class="quiet" onClick={onClose}>
          {t("common.cancel")}
        </button>
        <button type="submit" class="primary">
          {t("message.edit.send")}
        </button>
      </div>
    </form>
  );
}
