"""A small model that drafts for the target model: a second backend with a KV cache of its own.

It owns the draft backend's slots: which sequence has which, and which tokens are in it. The target model verifies the
draft tokens, so a wrong one never changes a reply. It must not decide when drafting pays: ``speculator`` does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tailrace.engine.backends.base import Backend, KVLayoutError, KVState
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.pass_cost import PassCost
from tailrace.errors import ConfigurationError

#: A sequence gets a draft if at most so many of its tokens aren't in the draft model's KV cache yet.
_MAX_LAG = 64
#: Until then (during its prompt, say) the draft model computes so many of its tokens each step.
_CATCH_UP_TOKENS = 256


@dataclass(slots=True)
class _DraftSlot:
    """A sequence's slot in the draft backend."""

    index: int
    run: int = 0  #: draft tokens in a row that were right; a wrong one leaves a quarter
    cached: list[int] = field(default_factory=list)  #: the tokens in the KV cache; the last ones may be rejected
    n_verified: int = 0  #: so many of them are the sequence's own
    #: Where the draft model's memory can't be cut: the state of the first ``checkpoint_length`` tokens.
    checkpoint: KVState | None = None
    checkpoint_length: int = 0


class DraftModel:
    """See ``Drafter``. Its draft tokens are the draft model's greedy choices."""

    learns_without_draft: bool = False
    #: Small models of a family agree with the large one on two thirds to four fifths of the tokens.
    prior: tuple[float, ...] = (0.7,) * LEVELS

    def __init__(self, backend: Backend, target_vocabulary: list[bytes]) -> None:
        """Raises ConfigurationError if the draft model's vocabulary isn't the target model's."""
        check_vocabulary(backend.vocabulary, target_vocabulary)
        self._backend = backend
        self._layout_policy = backend.layout_policy  #: with fewer cells after a layout for which there was no memory
        self._free_slots = list(range(backend.layout_policy.slots - 1, -1, -1))
        self._slots: dict[int, _DraftSlot] = {}  #: by the sequence's id
        self._pass_cost = PassCost()

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``. A slot is taken when it is needed."""

    def expect_results(self, wanted: bool) -> None:
        """See ``Drafter``. Tokens are all that it needs."""

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """See ``Drafter``. Tokens are all that it needs."""

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``. None also if the draft model's cache has no free cells."""
        slot = self._slots.get(sequence.id)
        if slot is None:
            if not self._free_slots:
                return None
            slot = self._slots[sequence.id] = _DraftSlot(self._free_slots.pop())
        lag = len(sequence.tokens) - len(slot.cached)
        if lag <= _MAX_LAG:
            return slot.run if self._ensure_cells(slot, len(sequence.tokens) + _MAX_LAG) else None
        self._drop_rejected(sequence, slot)
        tokens = sequence.tokens[len(slot.cached) :][:_CATCH_UP_TOKENS]
        if self._ensure_cells(slot, len(slot.cached) + len(tokens)):
            self._decode([(slot, tokens)])
        return None

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        jobs = sorted(
            ((self._slots[sequence.id], sequence, length) for sequence, length in requests),
            key=lambda job: job[0].index,
        )
        for slot, sequence, _ in jobs:
            self._drop_rejected(sequence, slot)
        new_tokens = {sequence.id: sequence.tokens[len(slot.cached) :] for slot, sequence, _ in jobs}
        while jobs:
            begun = time.perf_counter()
            drafted = self._decode([(slot, new_tokens[sequence.id]) for slot, sequence, _ in jobs])
            if self._backend.rollback.by_checkpoints:
                self._take_checkpoints([(slot, sequence) for slot, sequence, _ in jobs])
            self._pass_cost.observe(len(jobs), time.perf_counter() - begun)
            for (_, sequence, _), token in zip(jobs, drafted, strict=True):
                sequence.draft.append(token)
                new_tokens[sequence.id] = [token]
            jobs = [job for job in jobs if len(job[1].draft) < job[2]]

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
            self._truncate(slot, 0)
            self._free_slots.append(slot.index)

    def _drop_rejected(self, sequence: Sequence, slot: _DraftSlot) -> None:
        """Drop rejected draft tokens from the cache. The sequence's last token is dropped, too: it must be computed
        again, because the next draft token comes from its logits.
        """
        cached, tokens = slot.cached, sequence.tokens
        length = slot.n_verified + common_prefix(cached[slot.n_verified :], tokens[slot.n_verified : len(cached)])
        length = min(length, len(tokens) - 1)
        if length < len(cached):
            self._truncate(slot, length)
        slot.n_verified = min(length, len(cached))

    def _take_checkpoints(self, drafting: list[tuple[_DraftSlot, Sequence]]) -> None:
        """Keep the states of the slots that hold their sequences' tokens and no draft token yet."""
        for slot, sequence in drafting:
            if len(slot.cached) == len(sequence.tokens):
                try:
                    slot.checkpoint = self._backend.kv_checkpoint(slot.index, slot.checkpoint)
                except MemoryError:
                    slot.checkpoint = None
                slot.checkpoint_length = len(slot.cached)

    def _truncate(self, slot: _DraftSlot, length: int) -> None:
        if length and self._backend.rollback.by_checkpoints:
            length = self._roll_back(slot, length)
        elif not self._backend.kv_truncate(slot.index, length):
            length = 0
        del slot.cached[length:]

    def _roll_back(self, slot: _DraftSlot, length: int) -> int:
        """Roll back to the checkpoint, which isn't beyond ``length``. Returns the length then; 0: the slot is empty."""
        checkpoint, at = slot.checkpoint, slot.checkpoint_length
        if checkpoint is None or at > length:
            self._backend.kv_truncate(slot.index, 0)
            return 0
        return at if self._backend.kv_rollback(slot.index, checkpoint, at) else 0

    def _ensure_cells(self, slot: _DraftSlot, length: int) -> bool:
        """Make the layout large enough for ``length`` tokens in the slot, beside the other slots' tokens and drafts.
        False if that fails.
        """
        layout = self._backend.layout
        lengths = [0] * (1 + max(other.index for other in self._slots.values()))
        for other in self._slots.values():
            lengths[other.index] = len(other.cached) + _MAX_LAG
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
        slot_map = [(other.index, other.index) for other in self._slots.values() if other.cached]
        grown = True
        try:
            lost = set(self._backend.kv_relayout(larger, slot_map))
        except KVLayoutError as error:
            grown, lost = False, set(error.lost)
            self._layout_policy = self._layout_policy.after_failure(larger, layout)
        for other in self._slots.values():
            if other.index in lost:
                other.cached, other.n_verified = [], 0
                other.checkpoint = None
        return grown

    def _decode(self, new_tokens: list[tuple[_DraftSlot, list[int]]]) -> list[int]:
        """Compute each slot's new tokens. Returns the likeliest next token of each slot."""
        drafted: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[int] = []
        for number, (slot, new) in enumerate(new_tokens):
            tokens += new
            positions += range(len(slot.cached), len(slot.cached) + len(new))
            slots += [slot.index] * len(new)
            outputs.append(len(tokens) - 1)
            slot.cached += new
            is_last = number + 1 == len(new_tokens)
            if is_last or len(tokens) + len(new_tokens[number + 1][1]) > self._backend.max_batch:
                logits = self._backend.decode(tokens, positions, slots, outputs)
                drafted += logits.argmax(axis=1).tolist()
                tokens, positions, slots, outputs = [], [], [], []
        return drafted


def check_vocabulary(draft: list[bytes], target: list[bytes]) -> None:
    """Raises ConfigurationError unless token ids mean the same in the draft and the target model."""
    if draft == target:
        return
    if len(draft) != len(target):
        why = f"its vocabulary has {len(draft)} tokens, the model's {len(target)}"
    else:
        token = next(token for token, piece in enumerate(draft) if piece != target[token])
        why = f"token {token} is {draft[token]!r} in its vocabulary and {target[token]!r} in the model's"
    raise ConfigurationError(
        f"draft_model can't draft for this model: {why}. Take a smaller model of the same family, or set speculate "
        "to lookup or off."
    )
