"""The callbacks through which a request gets the engine's messages and the timer's ticks.

The callbacks run while the engine's messages are read from the socket, in order and on the event loop. No task is
woken: a token's text is on its way to the client when the call returns. So a callback must not block or wait. An
exception in one is a defect of that request alone: it ends the request through ``on_defect`` and never reaches the
connection.
"""

from __future__ import annotations

from typing import Protocol

from tailrace.errors import RequestError
from tailrace.protocol import Accepted, Finished, Predicted, Progress, Refused, TokenLogprobs


class GenerationCallbacks(Protocol):
    """The callbacks of one submitted generation."""

    @property
    def accepted(self) -> bool:
        """Whether the engine has accepted the generation. The metrics count these as running."""
        ...

    @property
    def n_tokens(self) -> int:
        """How many tokens have come so far."""
        ...

    @property
    def has_tokens(self) -> bool:
        """Whether the request has got a token, of this generation or of another one."""
        ...

    def on_answer(self, answer: Accepted | Refused) -> None:
        """The engine has checked the submit. Nothing follows a Refused."""
        ...

    def on_prefilled(self, cached_tokens: int, prompt_seconds: float) -> None:
        """The prompt is computed: ``cached_tokens`` of it came from the prefix cache; seconds since its admission."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """More of the prompt is computed. Comes only for a submit with ``progress``."""
        ...

    def on_prediction(self, predicted: Predicted) -> None:
        """Draft tokens from the request's prediction have been checked; the accepted ones follow as tokens."""
        ...

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """One more token; ``logprobs`` where the submit has asked for them."""
        ...

    def on_finished(self, finished: Finished) -> None:
        """The reply is complete; nothing follows."""
        ...

    def on_failed(self, error: RequestError) -> None:
        """The reply can't be continued, or its engine is gone; nothing follows."""
        ...

    def on_defect(self, error: Exception) -> None:
        """Another callback has raised ``error``; nothing follows."""
        ...


class TimerCallbacks(Protocol):
    """The callbacks of a request that a timer visits twice a second: one timer for all instead of one a token."""

    def on_tick(self, seconds: float) -> None:
        """The timer has run again after this many seconds."""
        ...

    def on_defect(self, error: Exception) -> None:
        """``on_tick`` has raised ``error``; nothing follows."""
        ...
