"""What a source of draft tokens must offer."""

from __future__ import annotations

from typing import Protocol

from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import Acceptance


class Drafter(Protocol):
    """Proposes draft tokens: the tokens that a sequence may get next."""

    #: Whether ``learn`` observes acceptance also where nothing was drafted.
    learns_without_draft: bool
    #: The acceptance rates before the first observation, for each level of ``Acceptance``.
    prior: tuple[float, ...]

    def begin(self, sequence: Sequence) -> None:
        """A sequence has started."""
        ...

    def expect_results(self, wanted: bool) -> None:
        """Whether the coming step's results are ``wanted``: only then ``collect`` is called after it. Neither is for a
        drafter that ``learns_without_draft``.
        """
        ...

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """A step has computed these sequences, and the backend's results are still those of it. ``slots``: that of each
        token of its batch. The sequences have their new tokens, and ``computed`` is as before the step.
        """
        ...

    def prepare(self, sequence: Sequence) -> int | None:
        """Do a bounded piece of the work that is needed before the sequence can get a draft.

        Returns its run: how many draft tokens in a row have been right just now. None if it can't get a draft (yet).
        """
        ...

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        """Set the ``draft`` of each sequence to at most so many tokens."""
        ...

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        """The expected seconds for drafts of ``length`` tokens for ``n_sequences`` sequences."""
        ...

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None:
        """``sampled`` are the sequence's next tokens: let ``acceptance`` observe which draft tokens were right."""
        ...

    def end(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        ...
