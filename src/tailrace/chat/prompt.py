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

from tailrace.errors import InvalidRequest

#: Around what stands for a name while the template is rendered: characters for private use, which no model's text has.
_OPEN, _CLOSE = "\ue000", "\ue001"


class Prompt(str):
    """A prompt's text. ``plain`` has the ranges of characters, rising, that no special token may be found in. The last
    ``begun`` characters are the beginning of the reply, which the model continues; of them, the last ``said`` are the
    message's own text, and those before are what the template puts before it.
    """

    __slots__ = ("begun", "plain", "said")

    plain: tuple[tuple[int, int], ...]
    begun: int
    said: int

    def __new__(
        cls, text: str, plain: Iterable[tuple[int, int]] = (), begun: int = 0, said: int | None = None
    ) -> Prompt:
        made = super().__new__(cls, text)
        made.plain = tuple(plain)
        made.begun = begun
        made.said = begun if said is None else said
        return made

    def __add__(self, text: str) -> Prompt:
        """What is put behind a prompt is the client's, and text."""
        return Prompt(str(self) + text, [*self.plain, (len(self), len(self) + len(text))], self.begun)

    def marked(self, text: str) -> Prompt:
        """With ``text`` of the model's family behind it, in which special tokens are what they are."""
        return Prompt(str(self) + text, self.plain, self.begun)

    def begun_at(self, position: int, said_at: int | None = None) -> Prompt:
        """The same, in which the reply begins at ``position``, and the message's own text at ``said_at``."""
        said = None if said_at is None else len(self) - said_at
        return Prompt(str(self), self.plain, len(self) - position, said)

    @property
    def head(self) -> Prompt:
        """What stands before the reply."""
        end = len(self) - self.begun
        return Prompt(str(self)[:end], [(start, stop) for start, stop in self.plain if stop <= end])

    @property
    def reply(self) -> str:
        """The reply so far."""
        return str(self)[len(self) - self.begun :]


def plain_ranges(prompt: str | list[int]) -> tuple[tuple[int, int], ...]:
    """The prompt's ``plain``; empty for what no template has made."""
    return prompt.plain if isinstance(prompt, Prompt) else ()


class Names:
    """The names of a model's special tokens."""

    def __init__(self, names: Iterable[str]) -> None:
        found = sorted((name for name in names if name), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found))) if found else None

    def hide(self, value: Any) -> tuple[Any, Hidden | None]:
        """``value`` (messages, tools: JSON) without special tokens' names, and what puts them back: None where none
        is, nearly always. Raises InvalidRequest for what is nested too deeply.
        """
        if self._pattern is None or not self._has_any(value):
            return value, None
        hidden = Hidden()
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

    def _hide(self, value: Any, hidden: Hidden) -> Any:
        assert self._pattern is not None
        if isinstance(value, str):
            return self._pattern.sub(lambda found: hidden.token(found[0]), value)
        if isinstance(value, dict):
            return {self._hide(key, hidden): self._hide(inner, hidden) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(inner, hidden) for inner in value]
        return value


class Hidden:
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

    def reveal(self, text: str) -> Prompt:
        """The rendered text with the names back in their places."""
        pieces: list[str] = []
        plain: list[tuple[int, int]] = []
        length = end = 0
        for found in re.finditer(f"{_OPEN}{self._nonce}([0-9]+){_CLOSE}", text):
            name = self._names[int(found[1])]
            pieces += [text[end : found.start()], name]
            length += found.start() - end
            plain.append((length, length + len(name)))
            length += len(name)
            end = found.end()
        return Prompt("".join([*pieces, text[end:]]), plain)
