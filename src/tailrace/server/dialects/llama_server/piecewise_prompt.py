"""Texts that a request has in pieces, brought to the tokens that the engine makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request

from tailrace.errors import EngineDied, InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineQuery, Tokenize, Tokenized
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.engine_query import PendingQuery
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect

#: Texts of one request that are tokenised by themselves.
_MAX_TEXTS = 4096


class TextPiece(msgspec.Struct, frozen=True):
    """A text to be tokenised. See ``Tokenize``."""

    text: str
    special: bool = True
    start: bool | None = False


class PieceTokenizer:
    """The tokens of the texts of one request, each pending for once."""

    def __init__(self, app: AppState, request: Request, model: ServedModel) -> None:
        self._app = app
        self._request = request
        self._model = model
        self._known: dict[TextPiece, list[int]] = {}

    async def tokenize(self, texts: Sequence[TextPiece], param: str) -> None:
        """Ask the engine for the texts' tokens, all at once. Raises RequestError, naming ``param``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(new) > _MAX_TEXTS:
            raise InvalidRequest(f"'{param}' has more than {_MAX_TEXTS} texts to tokenise.", param=param)
        self._app.queries.claim(self._request, self._model, [text.text for text in new], param)
        try:
            await self._ask(new, param)
        except EngineDied:
            await self._app.ready(self._request, self._model)
            await self._ask(new, param)

    async def _ask(self, new: Sequence[TextPiece], param: str) -> None:
        caller = caller_of(self._request.scope).identity
        engine = self._app.models.service(self._model.name).engine
        pending = _PendingQueries([])
        try:
            for text in new:
                pending.queries.append(engine.query(_question(text), 1, param=param, caller=caller))
            async with cancelled_on_disconnect(pending, self._request.receive):
                for text, query in zip(new, pending.queries, strict=True):
                    answers = await query.answers()
                    if answers is None:
                        raise ClientDisconnect
                    (answer,) = answers
                    assert isinstance(answer, Tokenized)
                    self._known[text] = answer.tokens
        finally:
            pending.cancel()

    def tokens_of(self, text: TextPiece) -> list[int]:
        """The tokens of a text that is known."""
        return self._known[text]


class _PendingQueries(NamedTuple):
    """Several queries that are cancelled together."""

    queries: list[PendingQuery]

    def cancel(self) -> None:
        """See ``Cancellable``."""
        for query in self.queries:
            query.withdraw()


def _question(text: TextPiece) -> Callable[[int], EngineQuery]:
    given = PromptText(text.text)
    return lambda identity: Tokenize(id=identity, text=given, parse_special=text.special, add_special=text.start)
