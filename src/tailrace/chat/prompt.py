"""A prompt as a template has made it, and which special tokens' names in it are only text.

Whoever writes to a model may write the name of a special token, ``<|im_end|>`` say. In the prompt it would end the
message and begin what the writer likes, because the tokenizer can't tell who wrote it. So such names are taken out of
what a conversation says before its template is rendered, and their places are remembered when they are put back.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText, Span

#: Around what stands for a name while the template is rendered: characters for private use, which no model's text has.
_OPEN, _CLOSE = "\ue000", "\ue001"


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
        """``value`` (messages, tools: JSON) without special tokens' names, and what puts them back: None where none
        is, nearly always. Raises InvalidRequest for what is nested too deeply.
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
        stack = [value]  # Every request comes here, and some are nested deeply.
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
            return self._pattern.sub(lambda found: hidden.token(found[0]), value)
        if isinstance(value, dict):
            return {self._hide(key, hidden): self._hide(inner, hidden) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(inner, hidden) for inner in value]
        return value


class HiddenNames:
    """Names that were taken out of one conversation."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)  # So that nobody can write what stands for a name.
        self._names: list[str] = []

    def token(self, name: str) -> str:
        """What stands for the name."""
        self._names.append(name)
        return f"{_OPEN}{self._nonce}{len(self._names) - 1}{_CLOSE}"

    def whole(self, text: str, position: int) -> int:
        """``position``, or the start of what stands for a name around it."""
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
