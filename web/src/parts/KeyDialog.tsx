// Asks for the API key when the server has refused a request without one, or with a wrong one.

import { useEffect, useRef, useState } from "preact/hooks";
import { useTranslate } from "../language/language";
import { key, keyWanted, refuseKey, takeKey } from "../server/key";
import { useStore } from "../store";

export function KeyDialog() {
  const t = useTranslate();
  const wanted = useStore(keyWanted).open;
  const dialog = useRef<HTMLDialogElement>(null);
  const [value, setValue] = useState("");
  const [keep, setKeep] = useState(false);
  useEffect(() => {
    if (wanted && !dialog.current?.open) dialog.current?.showModal();
    if (!wanted) dialog.current?.close();
  }, [wanted]);
  const use = (event: Event) => {
    event.preventDefault();
    const given = value.trim();
    if (given === "") return;
    setValue("");
    takeKey(given, keep);
  };
  return (
    <dialog ref={dialog} aria-labelledby="key-title" onCancel={refuseKey}>
      <form class="dialog-form" onSubmit={use}>
        <h2 id="key-title">{t("key.title")}</h2>
        <p>{t(key.value === null ? "key.explain" : "key.wrong")}</p>
        <label class="field">
          {t("key.label")}
          <input
            type="password"
            autocomplete="off"
            spellcheck={false}
            value={value}
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={keep} onChange={(event) => setKeep(event.currentTarget.checked)} />
          {t("key.keep")}
        </label>
        <div class="dialog-actions">
          <button type="button" class="quiet" onClick={refuseKey}>
            {t("common.cancel")}
          </button>
          <button type="submit" class="primary">
            {t("key.use")}
          </button>
        </div>
      </form>
    </dialog>
  );
}
