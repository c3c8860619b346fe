"""Separates reasoning in ``<think>`` tags from a streamed text, for servers that leave it there."""

from __future__ import annotations

from tailrace.chat.reply_parts import ReasoningPart, ReplyPart, TextPart

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkTags:
    """Reads one reply. Only a reply that begins with the tag has reasoning: later tags are text about tags."""

    def __init__(self) -> None:
        self._state = "begin"
        self._held = ""
        self._after_tag = False  #: line breaks behind a tag belong to it

    def feed(self, text: str) -> list[ReplyPart]:
        """The parts that are known with this piece of text."""
        self._held += text
        parts: list[ReplyPart] = []
        if self._state == "begin":
            begun = self._held.lstrip()
            if len(begun) < len(_OPEN) and _OPEN.startswith(begun):
                return []  # It may become the tag.
            if begun.startswith(_OPEN):
                self._enter("think", begun.removeprefix(_OPEN))
            else:
                self._state = "text"
        if self._state == "think":
            self._skip_line_breaks()
            thought, tag, rest = self._held.partition(_CLOSE)
            if tag:
                self._enter("text", rest)
            else:
                # The end of the text may be the beginning of the tag.
                keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
                thought, self._held = thought[: len(thought) - keep], thought[len(thought) - keep :]
            parts += [ReasoningPart(thought)] if thought else []
        if self._state == "text":
            self._skip_line_breaks()
            parts += [TextPart(self._held)] if self._held else []
            self._held = ""
        return parts

    def _enter(self, state: str, rest: str) -> None:
        self._state, self._held, self._after_tag = state, rest, True

    def _skip_line_breaks(self) -> None:
        if self._after_tag:
            self._held = self._held.lstrip("\n")
            self._after_tag = not self._held

    def finish(self) -> list[ReplyPart]:
        """The text that was held back, at the reply's end."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [ReasoningPart(held) if self._state == "think" else TextPart(held)]
