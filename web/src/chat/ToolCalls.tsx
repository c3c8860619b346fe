// Calls of tools that a reply has, and their results. The reader is the tool: a result is written here.

import { useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { useStore } from "../store";
import { answerCall, openChat } from "./chats";
import type { Message, ToolCall } from "./conversation";

export function ToolCalls({ calls, open }: { calls: readonly ToolCall[]; open: ReadonlySet<string> }) {
  return (
    <>
      {calls.map((call) => (
        <Call key={call.id} call={call} waits={open.has(call.id)} />
      ))}
    </>
  );
}

function Call({ call, waits }: { call: ToolCall; waits: boolean }) {
  const t = useTranslate();
  const [result, setResult] = useState("");
  return (
    <section class="call" aria-label={t("call.title", { name: call.name })}>
      <h3>{t("call.title", { name: call.name })}</h3>
      <pre tabIndex={0}>{pretty(call.arguments)}</pre>
      {waits && (
        <form
          class="call-answer"
          onSubmit={(event) => {
            event.preventDefault();
            void answerCall(call.id, result);
          }}
        >
          <label class="field">
            {t("call.result", { name: call.name })}
            <textarea rows={2} value={result} onInput={(event) => setResult(event.currentTarget.value)} />
          </label>
          <button type="submit">{t("call.answer")}</button>
        </form>
      )}
    </section>
  );
}

/** A tool's message. */
export function CallResult({ message }: { message: Message }) {
  const t = useTranslate();
  const { messages } = useStore(openChat);
  const calls = messages.flatMap((other) => other.calls ?? []);
  const name = calls.find((call) => call.id === message.callId)?.name ?? "";
  return (
    <article class="message call" aria-label={t("chat.tool-result")}>
      <h3>{t("call.result", { name })}</h3>
      <pre tabIndex={0}>{message.content}</pre>
    </article>
  );
}

function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    // A call that still comes isn't whole JSON.
    return json;
  }
}
