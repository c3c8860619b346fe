// The view of the machine.

import { useTranslate } from "../language/language";

export function Dashboard() {
  const t = useTranslate();
  return <h1>{t("machine.title")}</h1>;
}
