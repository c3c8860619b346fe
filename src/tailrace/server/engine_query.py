"""A question to the engine that isn't a generation: a text's tokens, its embedding, its tokens' probabilities.

It knows the answers' number and nothing of their meaning; ``client`` tells it what the engine says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tailrace.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest, RequestError
from tailrace.protocol import (
    Accepted,
    Embed,
    Embedded,
    Finished,
    Predicted,
    Progress,
    Refused,
    Score,
    Scored,
    Tokenize,
    Tokenized,
    TokenLogprobs,
)
from tailrace.server.callbacks import ReceiverState

EngineQuery = Tokenize | Embed | Score
QueryAnswer = Tokenized | Embedded | Scored


def too_long(refused: Refused, param: str, message: str | None = None) -> ContextLengthExceeded:
    """The error that the refusal of a prompt is that doesn't fit; ``message`` None is the engine's own."""
    error = ContextLengthExceeded(message or refused.message, param=param)
    error.prompt_tokens, error.context = refused.prompt_tokens, refused.context
    return error


class PendingQuery:
    """One question on its way, and the ``GenerationCallbacks`` of what comes back."""

    def __init__(self, answers: int, param: str, withdraw: Callable[[], None]) -> None:
        """``answers``: how many there will be; ``param``: the field to name when it is refused."""
        self._missing = answers
        self._param = param
        self._withdraw = withdraw
        self._answers: list[QueryAnswer] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answers(self) -> list[QueryAnswer] | None:
        """All of them as they came; None after ``cancel``. Raises RequestError when there are none to be had."""
        try:
            await self._done
        finally:
            self._withdraw()
        return self._answers if not self._missing else None

    def cancel(self) -> None:
        """Nobody waits for the answers any more. Harmless after the end."""
        if not self._done.done():
            self._done.set_result(None)

    def withdraw(self) -> None:
        """End it whatever has come, where ``answers`` isn't waited for. Harmless after the end."""
        self.cancel()
        if not self._done.cancelled():
            self._done.exception()  # It has been seen: else asyncio complains that nobody has.
        self._withdraw()

    def told(self, answer: QueryAnswer) -> bool:
        """An answer has come; True when it was the last."""
        self._answers.append(answer)
        self._missing -= 1
        if not self._missing:
            self.cancel()
        return not self._missing

    # What a GenerationCallbacks has

    @property
    def state(self) -> ReceiverState:
        """See ``GenerationCallbacks``."""
        return "inquiry"

    def answered(self, answer: Accepted | Refused) -> None:
        """See ``GenerationCallbacks``."""
        assert isinstance(answer, Refused), "an inquiry is answered or refused"
        message = f"Invalid value for '{self._param}': {answer.message}"
        if answer.code == "unavailable":
            self.failed(EngineUnavailable(f"The engine can't take this request now: {answer.message}. Try again."))
        elif answer.code == "context_length_exceeded":
            self.failed(too_long(answer, self._param, message))
        else:
            self.failed(InvalidRequest(message, param=self._param))

    def failed(self, error: RequestError) -> None:
        """See ``GenerationCallbacks``."""
        self.broke(error)

    def broke(self, error: Exception) -> None:
        """See ``GenerationCallbacks``."""
        if not self._done.done():
            self._done.set_exception(error)

    def begun(self, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``GenerationCallbacks``: nothing is generated."""
        raise AssertionError("an inquiry has no reply")

    def progressed(self, progress: Progress) -> None:
        """See ``GenerationCallbacks``: nothing is generated."""
        raise AssertionError("an inquiry has no reply")

    def predicted(self, predicted: Predicted) -> None:
        """See ``GenerationCallbacks``: nothing is generated."""
        raise AssertionError("an inquiry has no reply")

    def token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See ``GenerationCallbacks``: nothing is generated."""
        raise AssertionError("an inquiry has no tokens")

    def ended(self, finished: Finished) -> None:
        """See ``GenerationCallbacks``: nothing is generated."""
        raise AssertionError("an inquiry has no reply")
