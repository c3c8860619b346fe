// A panel beside the view; on narrow screens it lies above it, and takes the focus until it is closed.

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useTranslate } from "../language/language";
import { Store, useStore } from "../store";
import { IconButton } from "./Icon";

const query = window.matchMedia("(max-width: 900px)");
const narrow = new Store(query.matches);
query.addEventListener("change", () => {
  narrow.value = query.matches;
});

/** Whether panels lie above the view. */
export function useNarrow(): boolean {
  return useStore(narrow);
}

interface PanelProps {
  title: string;
  side: "left" | "right";
  onClose: () => void;
  children: ComponentChildren;
}

export function Panel({ title, side, onClose, children }: PanelProps) {
  const t = useTranslate();
  const over = useNarrow();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (over && !dialog.current?.open) dialog.current?.showModal();
  }, [over]);
  const content = (
    <>
      <div class="panel-head">
        <h2>{title}</h2>
        <IconButton name="close" label={t("common.close")} onClick={onClose} />
      </div>
      {children}
    </>
  );
  if (!over) {
    return (
      <aside class={`panel panel-${side}`} aria-label={title}>
        {content}
      </aside>
    );
  }
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape closes it, too
    <dialog
      ref={dialog}
      class={`panel panel-over panel-${side}`}
      aria-label={title}
      onClose={onClose}
      onClick={(event) => {
        // A click on the ground beside the panel.
        if (event.target === dialog.current) onClose();
      }}
    >
      <div class="panel-inside">{content}</div>
    </dialog>
  );
}
