"""A drafter that knows the replies, and errs now and then: drafts of any model are accepted in part."""

from __future__ import annotations

from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance

#: A draft token at each multiple of this position is wrong.
_WRONG_EVERY = 5


class KnownReplies:
    """See ``Drafter``. ``replies``: prompt and reply of each sequence by its id."""

    learns_without_draft = True
    prior: tuple[float, ...] = (0.8,) * LEVELS

    def __init__(self, replies: list[list[int]]) -> None:
        self._replies = replies

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``."""

    def expect_results(self, wanted: bool) -> None:
        """See ``Drafter``."""

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """See ``Drafter``."""

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``."""
        return 0

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        for sequence, length in requests:
            start = len(sequence.tokens)
            known = self._replies[sequence.id][start : start + length]
            sequence.draft = [token + (0 if (start + place) % _WRONG_EVERY else 1) for place, token in enumerate(known)]

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        """See ``Drafter``."""
        return 0.0

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None:
        """See ``Drafter``."""

    def end(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
