"""Who hears what the engine says to one reply, and who looks after it when nothing is said.

``client`` calls these as the engine's messages are read from the socket, in order and on the event loop: a token is
text on its way to its client when the call returns, and no task has been woken. So none of them may block or wait.
What they raise is a defect of that request's, and never reaches the connection: ``broke`` gets it.
"""

from __future__ import annotations

from typing import Literal, Protocol

from tailrace.errors import RequestError
from tailrace.protocol import Accepted, Finished, Predicted, Progress, Refused, TokenLogprobs

#: A question about a text, or a generation: submitted, or accepted by the engine.
ReceiverState = Literal["inquiry", "submitted", "accepted"]


class GenerationCallbacks(Protocol):
    """One submitted id's ear."""

    @property
    def state(self) -> ReceiverState:
        """What the id is: counted at a scrape of the metrics."""
        ...

    def answered(self, answer: Accepted | Refused) -> None:
        """The engine has looked at the submit. Nothing follows a Refused."""
        ...

    def begun(self, cached_tokens: int, prompt_seconds: float) -> None:
        """The prompt has been read, so much of it from what was kept, in so many seconds since its admission."""
        ...

    def progressed(self, progress: Progress) -> None:
        """More of the prompt has been computed: comes only where it was asked for."""
        ...

    def predicted(self, predicted: Predicted) -> None:
        """Draft tokens from the request's prediction have been verified; the tokens follow."""
        ...

    def token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """One more token; ``logprobs`` when they were asked for."""
        ...

    def ended(self, finished: Finished) -> None:
        """The reply is complete; nothing follows."""
        ...

    def failed(self, error: RequestError) -> None:
        """The reply can't be continued, or its engine is gone; nothing follows."""
        ...

    def broke(self, error: Exception) -> None:
        """One of the others raised ``error``; nothing follows."""
        ...


class Watched(Protocol):
    """A request that is looked at twice a second, by one timer for all of them instead of one a token."""

    def tick(self, seconds: float) -> None:
        """So many seconds have passed."""
        ...

    def broke(self, error: Exception) -> None:
        """``tick`` raised ``error``; nothing follows."""
        ...
