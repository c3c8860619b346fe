"""The load of a benchmark: concurrent requests and their prompts, the same for every side that is measured."""

from __future__ import annotations

import random
from typing import Any

import msgspec

#: Common words of about one token each in every usual vocabulary.
COMMON_WORDS = (
    "time",
    "people",
    "water",
    "light",
    "house",
    "music",
    "river",
    "garden",
    "paper",
    "story",
    "friend",
    "city",
)


class BenchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed chat request.

    ``start_after`` is (stream, events): send the request when the stream with this index has brought that many events;
    None sends it at once. ``disconnect_after`` closes the connection after that many tokens. With ``exact_length`` a
    reply of another length than ``max_tokens`` is an error. ``extra_fields`` are added to the body.
    """

    messages: list[dict[str, Any]]
    max_tokens: int
    disconnect_after: int | None = None
    start_after: tuple[int, int] | None = None
    exact_length: bool = True
    extra_fields: dict[str, Any] = {}


class LoadProfile(msgspec.Struct, frozen=True, kw_only=True):
    """``streams`` concurrent greedy replies of ``output_tokens`` each, to different prompts of about ``prompt_tokens``.

    With a larger ``max_tokens`` the client asks for that many and disconnects after ``output_tokens``.
    """

    streams: int
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None = None

    def requests(self, turn: int) -> list[BenchRequest]:
        """The requests of one turn, all sent at once."""
        limit = self.max_tokens or self.output_tokens
        return [
            BenchRequest(
                messages=[{"role": "user", "content": prompt}],
                max_tokens=limit,
                disconnect_after=self.output_tokens if limit > self.output_tokens else None,
            )
            for prompt in self.prompts(turn)
        ]

    def prompts(self, turn: int) -> list[str]:
        """The user messages of one turn. Prompts of different turns share no prefix."""
        return [self._prompt(random.Random(f"{turn}/{stream}")) for stream in range(self.streams)]

    def _prompt(self, source: random.Random) -> str:
        words = " ".join(source.choice(COMMON_WORDS) for _ in range(max(1, self.prompt_tokens - 8)))
        return f"{words}. Write a long story about it."
