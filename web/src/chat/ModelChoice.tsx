// The choice of the model.

import { useTranslate } from "../language/language";
import { loadModels, models } from "../server/models";
import { useStore } from "../store";
import { changeSettings, openChat, settingsOf } from "./chats";

export function ModelChoice() {
  const t = useTranslate();
  const known = useStore(models);
  const { model } = settingsOf(useStore(openChat));
  const gone = model !== null && known.length > 0 && !known.some(({ id }) => id === model);
  return (
    <select
      class="model-choice"
      aria-label={t("chat.model")}
      value={model ?? ""}
      onFocus={() => void loadModels()}
      onChange={(event) => changeSettings({ model: event.currentTarget.value || null })}
    >
      <option value="">{known.length === 1 && known[0] ? known[0].id : t("chat.model.default")}</option>
      {known.length > 1 &&
        known.map(({ id }) => (
          <option key={id} value={id}>
            {id}
          </option>
        ))}
      {model !== null && (gone || known.length <= 1) && (
        <option value={model}>{gone ? t("chat.model.gone", { model }) : model}</option>
      )}
    </select>
  );
}
