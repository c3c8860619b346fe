// A text in Markdown. Only blocks that have changed are rendered again, so a growing reply stays smooth and selectable.

import type { Token } from "marked";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { language, translate } from "../language/language";
import { copyText } from "../parts/copy";
import { useStore } from "../store";
import { helpers } from "./helpers";
import { blockHtml, blocks } from "./render";
import { safeHtml } from "./safe_html";

export function Markdown({ text }: { text: string }) {
  const tokens = useMemo(() => blocks(text), [text]);
  const spoken = useStore(language);
  return (
    <div class="markdown">
      {tokens.map((token, index) => (
        // A block's place is its identity; its buttons have the page's language.
        <Block key={`${index} ${spoken}`} token={token} />
      ))}
    </div>
  );
}

function Block({ token }: { token: Token }) {
  const place = useRef<HTMLDivElement>(null);
  const version = useStore(helpers);
  const html = useMemo(() => safeHtml(blockHtml(token)), [token.raw, version]);
  useLayoutEffect(() => {
    if (place.current !== null) furnish(place.current);
  }, [html]);
  return <div ref={place} class="block" dangerouslySetInnerHTML={{ __html: html }} />;
}

/** Adds to code the name of its language and a button that copies it, and lets keys scroll what is wide. */
function furnish(place: HTMLElement): void {
  for (const code of place.querySelectorAll("pre")) {
    if (code.parentElement?.classList.contains("code")) continue;
    const frame = document.createElement("div");
    frame.className = "code";
    const head = document.createElement("div");
    head.className = "code-head";
    const name = document.createElement("span");
    name.textContent = /language-([\w+#-]+)/.exec(code.firstElementChild?.className ?? "")?.[1] ?? "";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet small";
    button.textContent = translate("copy.code");
    button.addEventListener("click", () => void copyFrom(button, code));
    head.append(name, button);
    code.replaceWith(frame);
    frame.append(head, code);
    code.tabIndex = 0;
  }
  for (const table of place.querySelectorAll("table")) {
    if (table.parentElement?.classList.contains("wide")) continue;
    const frame = document.createElement("div");
    frame.className = "wide";
    frame.tabIndex = 0;
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", translate("markdown.table"));
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const box of place.querySelectorAll("input")) box.setAttribute("aria-label", translate("markdown.task"));
  for (const picture of place.querySelectorAll("img:not([alt])")) picture.setAttribute("alt", "");
}

async function copyFrom(button: HTMLButtonElement, code: HTMLElement): Promise<void> {
  await copyText(code.textContent ?? "");
  button.textContent = translate("copy.done");
  setTimeout(() => {
    button.textContent = translate("copy.code");
  }, 1500);
}
