"""A scheduler with its cache, whose steps are carried out as the engine's loop and the model would."""

from __future__ import annotations

from dataclasses import replace

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.kv_cache.cache_ops import CacheOp, Evict, Relayout, Swap
from tailrace.engine.kv_cache.layout import LayoutPolicy
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.protocol import Submit

#: Prompt tokens of a step beside decoding sequences.
MIXED_BUDGET = 16


def sequence_of(
    identity: int, tokens: list[int], max_tokens: int | None = None, priority: int = 0, caller: str = ""
) -> Sequence:
    submit = Submit(
        id=identity,
        prompt=tokens,
        caller=caller,
        params=GenerationParams(max_tokens=max_tokens, sampling=Sampling(temperature=0.0), priority=priority),
    )
    return Sequence(submit, list(tokens), 1000, frozenset())


def unlike(identity: int, length: int) -> list[int]:
    """A prompt that has no common prefix with another identity's."""
    return [identity * 10_000 + position for position in range(length)]


class SimulatedMachine:
    """A scheduler with its cache. Its steps are carried out as the loop does."""

    def __init__(
        self,
        *,
        slots: int = 4,
        cells: int = 1024,
        context: int = 1000,
        max_batch: int = 128,
        prefill_chunk: int = 64,
        host_tokens: int = 1000,
        fixed: bool = False,
        always_shared: bool = False,
        in_place: bool = False,
        last_chunk_budget: int = 0,
        first_prompt_budget: int = 0,
        piece_tokens: int = 0,
    ) -> None:
        policy = LayoutPolicy(slots, cells, min(context, cells), fixed=fixed, always_shared=always_shared)
        if in_place:
            policy = replace(policy, always_shared=True, initial_cells=256, reserved_cells=cells)
        self.in_place = in_place
        self.cache = KVCache(policy, policy.initial(), host_tokens, piece_tokens=piece_tokens)
        self.scheduler = Scheduler(self.cache, parallel=slots, max_batch=max_batch, prefill_chunk=prefill_chunk)
        self.held: dict[int, list[int]] = {}  #: the tokens that are really in each slot
        self.offloaded: dict[int, list[int]] = {}  #: the states in host memory, by key
        self.mixed_budget = MIXED_BUDGET
        self.last_chunk_budget = last_chunk_budget
        self.first_prompt_budget = first_prompt_budget
        self.reused = 0  #: steps that reused the plan before
        self._plan = Plan()

    def plan(self) -> Plan:
        """The last plan where it can be reused. Planning all the same proves each time that it would be the same."""
        scheduler = self.scheduler
        if not scheduler.can_reuse_plan():
            self._plan = scheduler.plan(self.mixed_budget, self.last_chunk_budget, self.first_prompt_budget)
            return self._plan
        self.reused += 1
        repeats = scheduler._reusable_steps
        scheduler._step -= 1  # Planning counts the step that reusing the plan has counted.
        planned = scheduler.plan(self.mixed_budget, self.last_chunk_budget, self.first_prompt_budget)
        scheduler._reusable_steps = repeats
        assert (planned.cache_ops, planned.scheduled) == ([], self._plan.scheduled)
        return planned

    def step(self) -> Plan:
        plan = self.plan()
        for op in plan.cache_ops:
            self._apply(op)
        for sequence in plan.admitted:
            if sequence.slot != NO_SLOT:
                assert self.held[sequence.slot] == sequence.tokens[: sequence.computed]
        slots = [(not sequence.decoding, sequence.slot) for sequence, _ in plan.scheduled]
        assert slots == sorted(set(slots)), "one entry a slot, in rising order, prompts behind decoding sequences"
        assert self.cache.fits([(sequence.slot, count) for sequence, count in plan.scheduled])
        decoding = [sequence.slot for sequence, _ in plan.scheduled if sequence.pending == 1]
        if decoding and not self.cache.layout.shared:
            assert decoding == list(range(decoding[0], decoding[-1] + 1)), "one pass over the weights for all of them"
        for sequence, count in plan.scheduled:
            assert 0 < count <= sequence.pending
            assert self.held[sequence.slot] == sequence.tokens[: sequence.computed]
            end = sequence.computed + count
            computed = sequence.tokens[sequence.computed : end]
            self.held[sequence.slot] += computed
            self.cache.append(sequence.slot, computed)
            sequence.computed = end
            if not sequence.pending:
                sequence.tokens.append(7)
                sequence.generated += 1
        return plan

    def _apply(self, op: CacheOp) -> None:
        """What the model's cache would do."""
        held, offloaded = self.held, self.offloaded
        if isinstance(op, Evict):
            if op.offload.key is not None:
                offloaded[op.offload.key] = held[op.slot][:]
            if not op.stays:
                held[op.slot] = []
            for key in (*op.offload.superseded, *(key for key, _ in op.offload.evicted)):
                del offloaded[key]
        elif isinstance(op, Swap):
            held[op.one], held[op.other] = held.get(op.other, []), held.get(op.one, [])
        elif isinstance(op, Relayout):
            if self.in_place:
                assert all(old == new for old, new in op.slot_map), "nothing moves"
                assert {old for old, _ in op.slot_map} >= {slot for slot, tokens in held.items() if tokens}
            self.held = {new: held.get(old, []) for old, new in op.slot_map}
        else:
            found = held.get(op.slot, [])
            if op.source_slot is not None:
                found = held[op.source_slot]
            elif op.offload_key is not None:
                found = offloaded[op.offload_key]
            held[op.slot] = found[: op.prefix_len]

    def run(self, sequence: Sequence) -> Sequence:
        """The sequence alone until it has said something; then it ends."""
        self.scheduler.add(sequence)
        while not sequence.generated:
            self.step()
        self.scheduler.remove(sequence)
        return sequence
