"""Texts that a request has in pieces, brought to the tokens that the engine makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineQuery, Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.engine_query import PendingQuery
from tailrace.server.streaming import cancelled_on_disconnect

#: Texts of one request that are tokenised by themselves.
_MOST_TEXTS = 4096


class Text(msgspec.Struct, frozen=True):
    """A text to be tokenised. See ``Tokenize``."""

    text: str
    special: bool = True
    start: bool | None = False


class Tokens:
    """The tokens of the texts of one request, each asked for once."""

    def __init__(self, app: AppState, request: Request) -> None:
        self._app = app
        self._request = request
        self._known: dict[Text, list[int]] = {}

    async def know(self, texts: Sequence[Text], param: str) -> None:
        """Ask the engine for the texts' tokens, all at once. Raises RequestError, naming ``param``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(new) > _MOST_TEXTS:
            raise InvalidRequest(f"'{param}' has more than {_MOST_TEXTS} texts to tokenise.", param=param)
        asked = _Asked([])
        try:
            for text in new:
                asked.inquiries.append(self._app.engine.query(_question(text), 1, param=param))
            async with cancelled_on_disconnect(asked, self._request.receive):
                for text, inquiring in zip(new, asked.inquiries, strict=True):
                    answers = await inquiring.answers()
                    if answers is None:
                        raise ClientDisconnect
                    (answer,) = answers
                    assert isinstance(answer, Tokenized)
                    self._known[text] = answer.tokens
        finally:
            asked.cancel()

    def of(self, text: Text) -> list[int]:
        """The tokens of a text that is known."""
        return self._known[text]


class _Asked(NamedTuple):
    """Several inquiries that are cancelled together."""

    inquiries: list[PendingQuery]

    def cancel(self) -> None:
        """See ``Cancellable``."""
        for inquiring in self.inquiries:
            inquiring.withdraw()


def _question(text: Text) -> Callable[[int], EngineQuery]:
    given = PromptText(text.text)
    return lambda identity: Tokenize(id=identity, text=given, parse_special=text.special, add_special=text.start)
