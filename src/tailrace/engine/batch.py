"""What a step computes: the tokens of its plan, as the backend wants them."""

from __future__ import annotations

from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint


class StepBatch:
    """The tokens of a plan's ``chunks``, with the drafts behind them. See ``Backend.decode``.

    It stands for the steps after it, too, as long as the plan does: they have other tokens, one position further.
    """

    __slots__ = (
        "chunks",
        "constraints",
        "counts",
        "decoding",
        "drafted",
        "n_decode_tokens",
        "outputs",
        "positions",
        "ready",
        "slots",
        "tokens",
    )

    def __init__(self, chunks: list[tuple[Sequence, int]]) -> None:
        """What is forced and isn't part of this step becomes something to be read like a prompt."""
        self.chunks = chunks
        self.counts = [count for _, count in chunks]  #: tokens of each
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.outputs: list[int] = []
        self.ready: list[Sequence] = []  #: those that get their next token from the outputs, in the same order
        self.constraints: list[Constraint] = []  #: theirs
        self.n_decode_tokens = 0  #: tokens of those that decode, in front of the prompts'
        self.decoding = 0  #: how many they are
        self.drafted = 0  #: tokens among theirs that were drafted or forced
        for sequence, count in chunks:
            self._add(sequence, count)

    def _add(self, sequence: Sequence, count: int) -> None:
        tokens, start = self.tokens, sequence.computed
        in_front = sequence.decoding and self.n_decode_tokens == len(tokens)
        # Less than planned where content was lost on the way.
        count = min(count, sequence.pending + len(sequence.draft))
        self.decoding += sequence.decoding
        tokens += sequence.tokens[start : start + count]
        if count >= sequence.pending:
            self.outputs.append(len(tokens) - 1)
            self.ready.append(sequence)
            if sequence.constraint is not None:
                self.constraints.append(sequence.constraint)
            if sequence.draft:
                self.outputs += range(len(tokens), len(tokens) + len(sequence.draft))
                tokens += sequence.draft
                self.drafted += len(sequence.draft)
            self.drafted += sequence.jump_forward
        else:
            sequence.jump_forward = 0  # The rest is read like a prompt.
        self.positions += range(start, start + count)
        self.slots += [sequence.slot] * count
        if in_front:
            self.n_decode_tokens = len(tokens)
