"""A rendered prompt, and the names of special tokens in it that are only text.

A client's message may contain the name of a special token, such as ``<|im_end|>``. In the prompt it would end the
message and begin another one, because the tokenizer can't tell its author. So each name is replaced by a placeholder
before the template is rendered. Afterwards the names come back, and their places become the prompt's literal spans.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText, Span

#: Around a placeholder: characters for private use, which no model's text has.
_OPEN, _CLOSE = "\ue000", "\ue001"

#: Names of special tokens in one conversation. Each takes 20 microseconds, on a thread.
MAX_NAMES = 50_000


class RenderedPrompt(PromptText, frozen=True, omit_defaults=True):
    """A prompt that a chat template has made. From ``reply_start`` on it is the beginning of the reply, which the model
    continues: what the template puts before the message's own text, and from ``message_start`` on that text. Both are
    characters; None where the reply hasn't begun.
    """

    reply_start: int | None = None
    message_start: int | None = None

    def continued_at(self, reply_start: int, message_start: int | None = None) -> RenderedPrompt:
        """The same prompt, in which the reply begins at ``reply_start`` and the message's text at ``message_start``
        (None: there as well).
        """
        message_start = reply_start if message_start is None else message_start
        return msgspec.structs.replace(self, reply_start=reply_start, message_start=message_start)

    @property
    def head(self) -> PromptText:
        """The prompt before the reply."""
        return self.slice(0, self.reply_start)

    @property
    def reply(self) -> str:
        """The reply so far; empty where it hasn't begun."""
        return "" if self.reply_start is None else self.text[self.reply_start :]

    @property
    def reply_markup(self) -> str:
        """What the template has put between the reply's start and the message's own text."""
        return "" if self.reply_start is None else self.text[self.reply_start : self.message_start]


class SpecialTokenNames:
    """The names of a model's special tokens."""

    def __init__(self, names: Iterable[str]) -> None:
        found = sorted((name for name in names if name), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found))) if found else None

    def hide(self, value: Any) -> tuple[Any, HiddenNames | None]:
        """``value`` (messages and tools: JSON) with placeholders for special tokens' names, and the names (None for
        none: the usual case). Raises InvalidRequest for values that are nested too deeply.
        """
        if self._pattern is None or not self._has_any(value):
            return value, None
        hidden = HiddenNames()
        try:
            return self._hide(value, hidden), hidden
        except RecursionError:
            raise InvalidRequest("'messages': they, or the tools, are nested too deeply.", param="messages") from None

    def _has_any(self, value: Any) -> bool:
        assert self._pattern is not None
        stack = [value]  # Without recursion: some requests are nested deeply.
        while stack:
            inner = stack.pop()
            if isinstance(inner, str):
                if self._pattern.search(inner) is not None:
                    return True
            elif isinstance(inner, dict):
                stack += inner
                stack += inner.values()
            elif isinstance(inner, list | tuple):
                stack += inner
        return False

    def _hide(self, value: Any, hidden: HiddenNames) -> Any:
        assert self._pattern is not None
        if isinstance(value, str):
            return self._pattern.sub(lambda found: hidden.placeholder(found[0]), value)
        if isinstance(value, dict):
            return {self._hide(key, hidden): self._hide(inner, hidden) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(inner, hidden) for inner in value]
        return value


class HiddenNames:
    """The names that one conversation's placeholders stand for."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)  # So that no client can write a placeholder.
        self._names: list[str] = []

    def placeholder(self, name: str) -> str:
        """A new placeholder for the name. Raises InvalidRequest when there are too many."""
        if len(self._names) >= MAX_NAMES:
            raise InvalidRequest(
                f"'messages': they, or the tools, have more than {MAX_NAMES} names of special tokens.", param="messages"
            )
        self._names.append(name)
        return f"{_OPEN}{self._nonce}{len(self._names) - 1}{_CLOSE}"

    def before_placeholder(self, text: str, position: int) -> int:
        """``position``, or the start of the placeholder around it."""
        opens = text.rfind(_OPEN, 0, position)
        return opens if opens > text.rfind(_CLOSE, 0, position) else position

    def reveal(self, text: str) -> RenderedPrompt:
        """The rendered text with the names back in their places, which are its literal spans."""
        pieces: list[str] = []
        spans: list[Span] = []
        length = end = 0
        for found in re.finditer(f"{_OPEN}{self._nonce}([0-9]+){_CLOSE}", text):
            name = self._names[int(found[1])]
            pieces += [text[end : found.start()], name]
            length += found.start() - end
            spans.append((length, length + len(name)))
            length += len(name)
            end = found.end()
        return RenderedPrompt("".join([*pieces, text[end:]]), tuple(spans))
