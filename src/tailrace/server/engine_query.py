"""A query to the engine is no generation: it asks for a text's tokens, its embedding, or its tokens' probabilities.

This module knows the number of answers and nothing of their meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tailrace.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest, RequestError
from tailrace.prompt_text import PromptText
from tailrace.protocol import (
    Accepted,
    Embed,
    Embedded,
    EngineQuery,
    QueryAnswer,
    Rank,
    Ranked,
    Refused,
    Scored,
    Tokenize,
)


def too_long(refused: Refused, param: str, message: str | None = None) -> ContextLengthExceeded:
    """The error for a prompt that the engine has refused as too long; ``message`` None is the engine's own text."""
    error = ContextLengthExceeded(message or refused.message, param=param)
    error.prompt_tokens, error.context = refused.prompt_tokens, refused.context
    return error


class PendingQuery:
    """One query on its way, and the callbacks for the messages that come back."""

    def __init__(self, answers: int, param: str, withdraw: Callable[[], None]) -> None:
        """``answers``: how many there will be; ``param``: the field to name when the engine refuses; ``withdraw`` stops
        the query in the engine.
        """
        self._missing = answers
        self._param = param
        self._withdraw = withdraw
        self._answers: list[QueryAnswer] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answers(self) -> list[QueryAnswer] | None:
        """All answers in the order in which they came; None after ``cancel``. Raises RequestError when there are
        none.
        """
        try:
            await self._done
        finally:
            self._withdraw()
        return self._answers if not self._missing else None

    def cancel(self) -> None:
        """The client has gone: ``answers`` returns. Harmless after the end."""
        if not self._done.done():
            self._done.set_result(None)

    def withdraw(self) -> None:
        """End the query where no task waits in ``answers``. Harmless after the end."""
        self.cancel()
        if not self._done.cancelled():
            self._done.exception()  # Marks an error as seen: asyncio would log it as never retrieved.
        self._withdraw()

    def on_query_answer(self, answer: QueryAnswer) -> bool:
        """An answer has come; True for the last one."""
        self._answers.append(answer)
        self._missing -= 1
        if not self._missing:
            self.cancel()
        return not self._missing

    def on_answer(self, answer: Accepted | Refused) -> None:
        """The engine has refused the query."""
        assert isinstance(answer, Refused), "a query is answered or refused"
        param = answer.field if answer.field == "query" else self._param
        message = f"Invalid value for '{param}': {answer.message}"
        if answer.code == "unavailable":
            self.on_failed(EngineUnavailable(f"The engine can't take this request now: {answer.message}. Try again."))
        elif answer.code == "context_length_exceeded":
            self.on_failed(too_long(answer, param, message))
        else:
            self.on_failed(InvalidRequest(message, param=param))

    def on_failed(self, error: RequestError) -> None:
        """The engine can't answer, or is gone."""
        self.on_defect(error)

    def on_defect(self, error: Exception) -> None:
        """Have ``answers`` raise ``error``."""
        if not self._done.done():
            self._done.set_exception(error)


def computed_tokens(answer: QueryAnswer) -> int:
    """The tokens that the model has read for an answer."""
    if isinstance(answer, Embedded | Ranked):
        return answer.tokens
    return len(answer.tokens) if isinstance(answer, Scored) else 0


def texts_of(query: EngineQuery) -> Sequence[PromptText | str | list[int]]:
    """The texts that a query has the engine read. A reranker reads the query with each document."""
    if isinstance(query, Embed):
        return query.inputs
    if isinstance(query, Rank):
        return [text for document in query.documents for text in (query.query, document)]
    return [query.text if isinstance(query, Tokenize) else query.prompt]
