// Where the message is written: text, files, and the button that sends it or stops the reply.

import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { useTranslate } from "../language/language";
import { Icon, IconButton } from "../parts/Icon";
import { useStore } from "../store";
import { sendMessage, stopReply } from "./chats";
import { attach, attached, draft, refused } from "./composer_state";

/** The id of the message's field, for the shortcut that goes there. */
export const FIELD = "composer-field";

/** `receiving`: the message of the open conversation that is a running reply. */
export function Composer({ receiving }: { receiving: string | null }) {
  const t = useTranslate();
  const text = useStore(draft);
  const files = useStore(attached);
  const field = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => {
    const element = field.current;
    if (element === null) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight + 2}px`;
  }, [text]);
  useEffect(() => {
    // On a phone the focus would open the keyboard over half of the page.
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) field.current?.focus();
  }, []);
  const empty = text.trim() === "" && files.length === 0;
  const submit = () => {
    if (empty || receiving !== null) return;
    draft.value = "";
    attached.value = [];
    refused.value = [];
    void sendMessage(text.trim(), [...files]);
    field.current?.focus();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <Files />
      <div class="composer-row">
        <input
          ref={picker}
          type="file"
          multiple
          hidden
          onChange={(event) => {
            void attach([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = "";
          }}
        />
        <IconButton name="clip" label={t("composer.attach")} onClick={() => picker.current?.click()} />
        <textarea
          ref={field}
          id={FIELD}
          rows={1}
          aria-label={t("composer.label")}
          placeholder={t("composer.placeholder")}
          value={text}
          onInput={(event) => {
            draft.value = event.currentTarget.value;
          }}
          onKeyDown={(event) => {
            // Enter also ends the choice of a Chinese character, and means that alone then.
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            submit();
          }}
          onPaste={(event) => {
            const pasted = [...(event.clipboardData?.files ?? [])];
            if (pasted.length === 0) return;
            event.preventDefault();
            void attach(pasted);
          }}
        />
        {receiving === null ? (
          <button
            type="submit"
            class="icon-button primary"
            aria-label={t("composer.send")}
            title={t("composer.send")}
            disabled={empty}
          >
            <Icon name="send" />
          </button>
        ) : (
          <IconButton name="stop" class="primary" label={t("composer.stop")} onClick={() => stopReply(receiving)} />
        )}
      </div>
    </form>
  );
}

function Files() {
  const t = useTranslate();
  const files = useStore(attached);
  const wrong = useStore(refused);
  return (
    <>
      {files.length > 0 && (
        <ul class="files">
          {files.map((file) => (
            <li key={file.name} class="file">
              {file.name}
              <IconButton
                name="close"
                label={t("composer.remove", { name: file.name })}
                onClick={() => {
                  attached.value = files.filter((other) => other !== file);
                }}
              />
            </li>
          ))}
        </ul>
      )}
      <div role="status">
        {wrong.map(({ name, reason }) => (
          <p key={name} class="problem">
            {t(reason, { name })}
          </p>
        ))}
      </div>
    </>
  );
}
