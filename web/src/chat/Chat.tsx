// The view of the chat.

import { useTranslate } from "../language/language";

export function Chat() {
  const t = useTranslate();
  return <h1>{t("chat.title")}</h1>;
}
