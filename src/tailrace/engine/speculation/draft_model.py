"""A small model that drafts for a large one: a second backend with a KV cache of its own.

It owns the draft backend's slots: which sequence has which, and which tokens it holds. The large model checks what it
guesses, so it may be wrong but never changes a reply. It decides nothing about when drafting pays (``speculate`` does).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tailrace.engine.backends.base import Backend, KVLayoutError
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.pass_cost import PassCost
from tailrace.errors import ConfigurationError

#: Tokens that a sequence may be behind in the draft model when it drafts. One that is further behind (its prompt, say)
#: is first brought nearer, so many tokens a step.
_BEHIND = 64
_CATCH_UP = 256


@dataclass(slots=True)
class _Slot:
    """A sequence's place in the draft backend."""

    index: int
    run: int = 0  #: right guesses in a row; a wrong one leaves a quarter
    held: list[int] = field(default_factory=list)  #: tokens computed in the draft model; the last ones may be wrong
    sure: int = 0  #: so many of them are the sequence's


class DraftModel:
    """See ``Drafter``. Guesses are the draft model's greedy choices."""

    watches: bool = False
    #: Small models of a family agree with the large one on two thirds to four fifths of the tokens.
    belief: tuple[float, ...] = (0.7,) * LEVELS

    def __init__(self, backend: Backend, vocabulary: list[bytes]) -> None:
        """``vocabulary``: the large model's. Raises ConfigurationError when the draft model's is another one."""
        check_vocabulary(backend.vocabulary, vocabulary)
        self._backend = backend
        self._layout_policy = backend.layout_policy  #: with fewer cells after a layout for which there was no memory
        self._free = list(range(backend.layout_policy.slots - 1, -1, -1))
        self._slots: dict[int, _Slot] = {}  #: by the sequence's id
        self._cost = PassCost()

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``: a slot is taken when it is needed."""

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``. None as well when the draft model's cache has no room."""
        slot = self._slots.get(sequence.id)
        if slot is None:
            if not self._free:
                return None
            slot = self._slots[sequence.id] = _Slot(self._free.pop())
        behind = len(sequence.tokens) - len(slot.held)
        if behind <= _BEHIND:
            return slot.run if self._has_room(slot, len(sequence.tokens) + _BEHIND) else None
        self._rewind(sequence, slot)
        piece = sequence.tokens[len(slot.held) :][:_CATCH_UP]
        if self._has_room(slot, len(slot.held) + len(piece)):
            self._compute([(slot, piece)])
        return None

    def draft(self, wanted: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        places = sorted(
            ((self._slots[sequence.id], sequence, length) for sequence, length in wanted),
            key=lambda place: place[0].index,
        )
        for slot, sequence, _ in places:
            self._rewind(sequence, slot)
        feed = {sequence.id: sequence.tokens[len(slot.held) :] for slot, sequence, _ in places}
        while places:
            begun = time.perf_counter()
            guesses = self._compute([(slot, feed[sequence.id]) for slot, sequence, _ in places])
            self._cost.observe(len(places), time.perf_counter() - begun)
            for (_, sequence, _), guess in zip(places, guesses, strict=True):
                sequence.draft.append(guess)
                feed[sequence.id] = [guess]
            places = [place for place in places if len(place[1].draft) < place[2]]

    def seconds(self, drafting: int, length: int) -> float:
        """See ``Drafter``: a pass for each token of the longest draft. 0 until a pass has been seen."""
        return length * self._cost.seconds(drafting) if self._cost.known else 0.0

    def learn(self, sequence: Sequence, chosen: list[int], acceptance: Acceptance) -> None:
        """See ``Drafter``."""
        for drafted, token in zip(sequence.draft, chosen, strict=False):
            slot = self._slots[sequence.id]
            acceptance.observe(slot.run, drafted == token)
            if drafted != token:
                slot.run //= 4
                break
            slot.run += 1

    def end(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        slot = self._slots.pop(sequence.id, None)
        if slot is not None:
            self._cut(slot, 0)
            self._free.append(slot.index)

    def _rewind(self, sequence: Sequence, slot: _Slot) -> None:
        """Drop what the slot holds of guesses that weren't chosen. The sequence's last token is to be computed again if
        it is held already: the next guess comes from its logits.
        """
        held, tokens = slot.held, sequence.tokens
        length = slot.sure + common_prefix(held[slot.sure :], tokens[slot.sure : len(held)])
        length = min(length, len(tokens) - 1)
        if length < len(held):
            self._cut(slot, length)
        slot.sure = length

    def _cut(self, slot: _Slot, length: int) -> None:
        if not self._backend.kv_truncate(slot.index, length):
            length = 0
        del slot.held[length:]

    def _has_room(self, slot: _Slot, length: int) -> bool:
        """Have room for so many tokens in the slot, beside what others hold and may draft; False when there is none."""
        layout = self._backend.layout
        lengths = [0] * (1 + max(other.index for other in self._slots.values()))
        for other in self._slots.values():
            lengths[other.index] = len(other.held) + _BEHIND
        lengths[slot.index] = max(length, lengths[slot.index])
        if layout.shared:
            fits = sum(lengths) <= layout.cells
        else:
            fits = len(lengths) <= layout.partitions and max(lengths) <= layout.cells
        if fits:
            return True
        larger = self._layout_policy.choose(lengths, layout)
        if larger is None:
            return False
        places = [(other.index, other.index) for other in self._slots.values() if other.held]
        grown = True
        try:
            lost = set(self._backend.kv_relayout(larger, places))
        except KVLayoutError as error:
            grown, lost = False, set(error.lost)
            self._layout_policy = self._layout_policy.after_failure(larger, layout)
        for other in self._slots.values():
            if other.index in lost:
                other.held, other.sure = [], 0
        return grown

    def _compute(self, feed: list[tuple[_Slot, list[int]]]) -> list[int]:
        """Compute the tokens behind what each slot holds; the likeliest token behind each of them."""
        guesses: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[int] = []
        for number, (slot, new) in enumerate(feed):
            tokens += new
            positions += range(len(slot.held), len(slot.held) + len(new))
            slots += [slot.index] * len(new)
            outputs.append(len(tokens) - 1)
            slot.held += new
            if number + 1 == len(feed) or len(tokens) + len(feed[number + 1][1]) > self._backend.max_batch:
                logits = self._backend.decode(tokens, positions, slots, outputs)
                guesses += logits.argmax(axis=1).tolist()
                tokens, positions, slots, outputs = [], [], [], []
        return guesses


def check_vocabulary(draft: list[bytes], large: list[bytes]) -> None:
    """Raises ConfigurationError unless token ids mean the same in both models."""
    if draft == large:
        return
    if len(draft) != len(large):
        why = f"its vocabulary has {len(draft)} tokens, the model's {len(large)}"
    else:
        token = next(token for token, piece in enumerate(draft) if piece != large[token])
        why = f"token {token} is {draft[token]!r} in its vocabulary and {large[token]!r} in the model's"
    raise ConfigurationError(
        f"draft_model can't draft for this model: {why}. Take a smaller model of the same family, or set speculate "
        "to lookup or off."
    )
