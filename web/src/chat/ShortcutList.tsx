// The list of keyboard shortcuts.

import { useEffect, useRef } from "preact/hooks";
import { useTranslate } from "../language/language";
import { IconButton } from "../parts/Icon";
import { LISTED } from "./shortcuts";

export function ShortcutList({ onClose }: { onClose: () => void }) {
  const t = useTranslate();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby="shortcuts-title" onClose={onClose}>
      <div class="dialog-form">
        <div class="panel-head">
          <h2 id="shortcuts-title">{t("chat.shortcuts")}</h2>
          <IconButton name="close" label={t("common.close")} onClick={onClose} />
        </div>
        <dl class="shortcuts">
          {LISTED.map(({ keys, text }) => (
            <div key={text}>
              <dt>{t(text)}</dt>
              <dd>
                {keys.map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </dd>
            </div>
          ))}
        </dl>
      </div>
    </dialog>
  );
}
