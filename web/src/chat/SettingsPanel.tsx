// The parameters of the open conversation, and its system prompt.

import { useTranslate } from "../language/language";
import { Panel } from "../parts/Panel";
import { forgetKey, key } from "../server/key";
import { useStore } from "../store";
import { changeSettings, openChat, settingsOf } from "./chats";
import { type ChatSettings, NO_SETTINGS } from "./conversation";

type NumberName = "temperature" | "topP" | "topK" | "minP" | "repeatPenalty" | "maxTokens" | "seed";

/** Each number's bounds and step, as the API has them. */
const NUMBERS: Record<NumberName, { min: number; max?: number; step: number }> = {
  temperature: { min: 0, max: 2, step: 0.05 },
  topP: { min: 0, max: 1, step: 0.01 },
  topK: { min: 0, step: 1 },
  minP: { min: 0, max: 1, step: 0.01 },
  repeatPenalty: { min: 0.01, max: 10, step: 0.01 },
  maxTokens: { min: 1, step: 1 },
  seed: { min: 0, step: 1 },
};

export function SettingsPanel({ onClose }: { onClose: () => void }) {
  const t = useTranslate();
  const settings = settingsOf(useStore(openChat));
  const hasKey = useStore(key) !== null;
  return (
    <Panel title={t("settings.title")} side="right" onClose={onClose}>
      <div class="settings">
        <p class="panel-hint">{t("settings.hint")}</p>
        <TextField name="system" rows={5} settings={settings} />
        <div class="settings-numbers">
          {(Object.keys(NUMBERS) as NumberName[]).map((name) => (
            <NumberField key={name} name={name} settings={settings} />
          ))}
          <Thinking settings={settings} />
        </div>
        <TextField name="stop" rows={2} settings={settings} />
        <TextField name="tools" rows={4} settings={settings} />
        <Problem tools={settings.tools} />
        <button type="button" onClick={() => changeSettings({ ...NO_SETTINGS, model: settings.model })}>
          {t("settings.reset")}
        </button>
        {hasKey && (
          <button type="button" onClick={forgetKey}>
            {t("key.forget")}
          </button>
        )}
      </div>
    </Panel>
  );
}

function NumberField({ name, settings }: { name: NumberName; settings: ChatSettings }) {
  const t = useTranslate();
  const { min, max, step } = NUMBERS[name];
  return (
    <label class="field">
      {t(`settings.${name}`)}
      <input
        type="number"
        inputMode="decimal"
        min={min}
        max={max}
        step={step}
        placeholder={t("settings.default")}
        value={settings[name] ?? ""}
        onChange={(event) => {
          const { value, valueAsNumber } = event.currentTarget;
          changeSettings({ [name]: value === "" || Number.isNaN(valueAsNumber) ? null : valueAsNumber });
        }}
      />
    </label>
  );
}

function TextField({
  name,
  rows,
  settings,
}: {
  name: "system" | "stop" | "tools";
  rows: number;
  settings: ChatSettings;
}) {
  const t = useTranslate();
  return (
    <label class="field">
      {t(`settings.${name}`)}
      <textarea
        rows={rows}
        spellcheck={name === "system"}
        value={settings[name]}
        onInput={(event) => changeSettings({ [name]: event.currentTarget.value })}
      />
    </label>
  );
}

function Thinking({ settings }: { settings: ChatSettings }) {
  const t = useTranslate();
  return (
    <label class="field">
      {t("settings.thinking")}
      <select
        value={settings.thinking}
        onChange={(event) => changeSettings({ thinking: event.currentTarget.value as ChatSettings["thinking"] })}
      >
        {(["default", "on", "off"] as const).map((value) => (
          <option key={value} value={value}>
            {t(`settings.thinking.${value}`)}
          </option>
        ))}
      </select>
    </label>
  );
}

function Problem({ tools }: { tools: string }) {
  const t = useTranslate();
  let reason = "";
  try {
    if (tools.trim() !== "") JSON.parse(tools);
  } catch (error) {
    reason = error instanceof Error ? error.message : String(error);
  }
  return <div role="status">{reason !== "" && <p class="problem">{t("settings.tools.wrong", { reason })}</p>}</div>;
}
