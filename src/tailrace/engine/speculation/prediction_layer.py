"""The model's own prediction layer (MTP) as a drafter.

The layer takes a token with the model's hidden state of the token before it. The step gives the hidden states of the
tokens that it computed; behind these, the layer's own hidden states take their place. It attends to the tokens that it
has seen itself: those of a prompt's last step, and of the reply. Tokens from the prefix cache have no hidden states.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from tailrace.engine.backends.base import HiddenStates, PredictionContext
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.pass_cost import PassCost

#: Hidden states of a sequence that are kept for tokens that the layer hasn't seen. Older ones are forgotten.
_MAX_ROWS = 128
#: Passes with more new tokens of a sequence don't teach what a pass costs.
_USUAL_TOKENS = 8


@dataclass(slots=True)
class _Slot:
    """A sequence's slot in the layer's cache. A position is one of the sequence's tokens."""

    index: int
    run: int = 0  #: draft tokens in a row that were right; a wrong one leaves a quarter
    begin: int = 0  #: the first position in the cache
    end: int = 0  #: the position behind the last one with a hidden state of the model; ``begin``: the cache is empty
    written: int = 0  #: the position behind the last one in the cache: of draft tokens, too
    first_row: int = 0  #: the position of the first of ``rows``
    rows: list[HiddenStates] = field(default_factory=list)  #: hidden states, one for each position


class PredictionLayer:
    """See ``Drafter``. Its draft tokens are the layer's likeliest ones."""

    learns_without_draft: bool = False
    #: A trained layer is right with its first token in seven to nine of ten cases.
    prior: tuple[float, ...] = (0.7,) * LEVELS

    def __init__(self, context: PredictionContext) -> None:
        self._context = context
        self._free_slots = list(range(context.slots - 1, -1, -1))
        self._slots: dict[int, _Slot] = {}  #: by the sequence's id
        self._pass_cost = PassCost()

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``. A slot is taken when the sequence has hidden states."""

    def expect_results(self, wanted: bool) -> None:
        """See ``Drafter``."""
        self._context.collects = wanted

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """See ``Drafter``."""
        hidden, behind = self._context.hidden, 0
        for sequence, _ in scheduled:
            first = behind
            while behind < len(slots) and slots[behind] == sequence.slot:
                behind += 1
            # Rejected draft tokens aren't the sequence's.
            count = min(behind - first, len(sequence.tokens) - 1 - sequence.jump_forward - sequence.computed)
            if count > 0 and behind <= len(hidden):
                self._store(sequence, sequence.computed, hidden[first : first + count])

    def _store(self, sequence: Sequence, start: int, hidden: HiddenStates) -> None:
        """Keep the hidden states of the sequence's tokens from ``start`` on."""
        slot = self._slots.get(sequence.id)
        if slot is None:
            if not self._free_slots:
                return
            slot = self._slots[sequence.id] = _Slot(self._free_slots.pop())
        if len(hidden) == 1 and start == slot.first_row + len(slot.rows) and len(slot.rows) < _MAX_ROWS:
            slot.rows.append(hidden[0].copy())
            return
        if not slot.first_row <= start <= slot.first_row + len(slot.rows):
            slot.rows, slot.first_row = [], start
        # Tokens that were computed again have the same hidden states.
        del slot.rows[start - slot.first_row :]
        slot.rows += list(hidden[-_MAX_ROWS:].copy())
        if len(hidden) > _MAX_ROWS:
            slot.rows = slot.rows[-_MAX_ROWS:]
            slot.first_row = start + len(hidden) - _MAX_ROWS
        superfluous = len(slot.rows) - _MAX_ROWS
        if superfluous > 0:
            del slot.rows[:superfluous]
            slot.first_row += superfluous

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``. None where the hidden state before the sequence's last token is missing."""
        slot = self._slots.get(sequence.id)
        if slot is None or slot.first_row + len(slot.rows) != len(sequence.tokens) - 1 or not slot.rows:
            return None
        return slot.run

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        jobs = [(self._slots[sequence.id], sequence, length) for sequence, length in requests]
        for slot, sequence, _ in jobs:
            self._make_room(slot, len(sequence.tokens))
        begun = time.perf_counter()
        longest = max(len(sequence.tokens) - slot.end for slot, sequence, _ in jobs)
        found = self._catch_up(jobs)
        if longest <= _USUAL_TOKENS:
            self._pass_cost.observe(len(jobs), time.perf_counter() - begun)
        while found is not None:
            tokens, hidden = found
            for (_, sequence, _), token in zip(jobs, tokens, strict=True):
                sequence.draft.append(token)
            going = [place for place, (_, sequence, length) in enumerate(jobs) if len(sequence.draft) < length]
            if not going:
                return
            jobs, hidden = [jobs[place] for place in going], hidden[going]
            begun = time.perf_counter()
            found = self._predict(
                [sequence.draft[-1] for _, sequence, _ in jobs],
                hidden,
                [slot.written for slot, _, _ in jobs],
                [slot for slot, _, _ in jobs],
                list(range(len(jobs))),
            )
            self._pass_cost.observe(len(jobs), time.perf_counter() - begun)

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        """See ``Drafter``: a pass for each token of the longest draft. 0 until a pass has been observed."""
        return length * self._pass_cost.seconds(n_sequences) if self._pass_cost.has_observations else 0.0

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None:
        """See ``Drafter``."""
        if sequence.draft:
            slot = self._slots[sequence.id]
            slot.run = acceptance.observe_draft(slot.run, sequence.draft, sampled)

    def end(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        slot = self._slots.pop(sequence.id, None)
        if slot is not None:
            self._context.forget(slot.index, 0)
            self._free_slots.append(slot.index)

    def _make_room(self, slot: _Slot, length: int) -> None:
        """Drop draft tokens from the slot's cache, and old tokens where there are many; or all, where the hidden states
        of the tokens behind are missing.
        """
        # The token at a position is computed with the hidden state of the position before it.
        if slot.end == slot.begin or not slot.first_row < slot.end:
            self._context.forget(slot.index, 0)
            slot.begin = slot.end = slot.first_row + 1
        else:
            if slot.written > slot.end:
                self._context.forget(slot.index, slot.end)
            superfluous = length + _MAX_ROWS - slot.begin - self._context.cells
            if superfluous > 0:
                slot.begin = min(slot.end, slot.begin + superfluous + self._context.cells // 4)
                self._context.forget(slot.index, 0, slot.begin)
        slot.written = slot.end

    def _catch_up(self, jobs: list[tuple[_Slot, Sequence, int]]) -> tuple[list[int], HiddenStates] | None:
        """Compute each sequence's tokens that the layer hasn't seen, up to its last one."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[_Slot] = []
        hidden: list[HiddenStates] = []
        outputs: list[int] = []
        results: list[tuple[list[int], HiddenStates]] = []
        for number, (slot, sequence, _) in enumerate(jobs):
            new = range(slot.end, len(sequence.tokens))
            tokens += sequence.tokens[slot.end :]
            positions += new
            slots += [slot] * len(new)
            hidden += slot.rows[slot.end - 1 - slot.first_row :]
            outputs.append(len(tokens) - 1)
            slot.end = len(sequence.tokens)
            if number + 1 == len(jobs) or len(tokens) + _MAX_ROWS > self._context.max_pass_tokens:
                found = self._predict(tokens, np.stack(hidden), positions, slots, outputs)
                if found is None:
                    return None
                # The next pass overwrites them.
                results.append((found[0], found[1].copy()))
                tokens, positions, slots, hidden, outputs = [], [], [], [], []
        return [token for some, _ in results for token in some], np.concatenate([rows for _, rows in results])

    def _predict(
        self, tokens: list[int], hidden: HiddenStates, positions: list[int], slots: list[_Slot], outputs: list[int]
    ) -> tuple[list[int], HiddenStates] | None:
        """One pass. None where a row has no likeliest token."""
        found, rows = self._context.predict(tokens, hidden, positions, [slot.index for slot in slots], outputs)
        for slot, position in zip(slots, positions, strict=True):
            slot.written = position + 1
        return (found, rows) if len(found) == len(outputs) else None
