"""How long a caller waits for its first token beside a greedy one, in simulated time.

The machine is two cores with a model of 135M parameters: a step of 8 replies takes 9 ms.
"""

from __future__ import annotations

import random

import pytest

from simulated_scheduler import SimulatedMachine, sequence_of, unlike
from tailrace.engine.kv_cache.cache_ops import Evict, Placement
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import NO_SLOT, Sequence
from tailrace.loadtest.load_stats import percentile

#: Seconds of a step: in any case, for each reply, and for each prompt token.
_STEP, _REPLY, _PROMPT_TOKEN = 3e-3, 0.75e-3, 0.33e-3
#: Seconds for each token of a state that is copied to host memory or back, and tokens of a piece of it.
_COPY = 10e-6
_PIECE = 45
#: What a request takes outside of the engine.
_OUTSIDE = 5e-3


class _Clock:
    """A machine whose steps take time."""

    def __init__(self) -> None:
        self.machine = SimulatedMachine(
            slots=8,
            cells=65536,
            context=8192,
            max_batch=512,
            prefill_chunk=512,
            host_tokens=200_000,
            always_shared=True,
            piece_tokens=_PIECE,
        )
        self.machine.cache.pieces_at_once = int(0.015 / (_COPY * _PIECE))
        self.now = 0.0
        self.tokens = 0  #: of the greedy caller
        self._budget = PrefillBudget(512, None)
        self._ends: dict[int, int] = {}  #: tokens of each reply
        self._copied = 0  #: tokens of the state that is copied in pieces

    def add(self, sequence: Sequence, reply_tokens: int) -> None:
        self._ends[sequence.id] = reply_tokens
        self.machine.scheduler.add(sequence)

    def step(self) -> None:
        machine = self.machine
        n_decoding = len(machine.scheduler.decoding)
        machine.mixed_budget = self._budget.mixed(n_decoding)
        machine.last_chunk_budget = self._budget.last_chunk(n_decoding)
        machine.first_prompt_budget = self._budget.first_prompt()
        decoding = {sequence.id for sequence in machine.scheduler.decoding}
        plan = machine.step()
        replies = sum(sequence.id in decoding for sequence, _ in plan.scheduled)
        prompts = sum(count for sequence, count in plan.scheduled if sequence.id not in decoding)
        seconds = _STEP + _REPLY * replies + _PROMPT_TOKEN * prompts
        self._budget.observe(replies, prompts, seconds)
        self.now += seconds + self._copies(plan) + self._move(replies, seconds)
        for sequence, _ in plan.scheduled:
            self.tokens += sequence.caller == "A"
            if sequence.generated >= self._ends[sequence.id]:
                machine.scheduler.remove(sequence)

    def _move(self, replies: int, seconds: float) -> float:
        """Copy pieces of the state that leaves, after such a step; their seconds."""
        scheduler, leaving = self.machine.scheduler, self.machine.cache.leaving
        if leaving is None or leaving.copied:
            return 0.0
        if not leaving.begun:
            leaving.begun, leaving.tokens = True, len(self.machine.cache.slots[leaving.slot].tokens)
            self._copied = 0
        allowed = self._budget.move_seconds(replies, seconds, awaited=scheduler.awaits_copy)
        tokens = min(leaving.tokens - self._copied, _PIECE * -int(-allowed // (_COPY * _PIECE)))
        self._copied += tokens
        leaving.pieces = self._copied / _PIECE
        if self._copied == leaving.tokens:
            leaving.copied = True
            scheduler.note_move()
        return _COPY * tokens

    def _copies(self, plan: Plan) -> float:
        tokens = 0
        for op in plan.cache_ops:
            if isinstance(op, Evict) and op.offload.key is not None:
                tokens += len(self.machine.offloaded.get(op.offload.key, []))
                tokens -= 0 if op.leaving is None else self._copied
            elif isinstance(op, Placement) and op.offload_key is not None:
                tokens += op.prefix_len
        return _COPY * tokens


def _waits(greedy_requests: int, greedy_prompt: int, prompt: int, count: int) -> tuple[list[float], float]:
    """The patient caller's times to the first token, one request about every two seconds, and the greedy caller's
    tokens a second.
    """
    clock = _Clock()
    source = random.Random(7)
    for identity in range(greedy_requests):
        clock.add(sequence_of(identity, unlike(identity, greedy_prompt), caller="A"), 500)
    waits: list[float] = []
    due, asked, reply = 1.0, 0.0, None
    identity = 10_000
    while len(waits) < count:
        if reply is None and clock.now >= due:
            identity += 1
            reply = sequence_of(identity, unlike(identity, prompt), caller="B")
            clock.add(reply, 16)
            asked, due = due, due + 1.5 + source.random()
        if not clock.machine.scheduler.has_work:
            clock.now = due
            continue
        before = 0 if reply is None else reply.generated
        clock.step()
        if reply is not None and reply.generated and not before:
            waits.append(clock.now - asked + _OUTSIDE)
        if reply is not None and reply.generated and reply.slot == NO_SLOT:
            reply = None
    return waits, clock.tokens / clock.now


@pytest.mark.parametrize(("greedy_prompt", "prompt"), [(20, 40), (84, 84), (400, 84), (84, 400), (3000, 84)])
def test_a_caller_s_p99_beside_a_greedy_one_is_at_most_twice_of_that_alone(greedy_prompt: int, prompt: int) -> None:
    alone, _ = _waits(0, 0, prompt, 20)
    beside, _ = _waits(200, greedy_prompt, prompt, 20)
    assert percentile(beside, 0.99) <= 2 * percentile(alone, 0.99)
    assert percentile(beside, 0.5) <= 1.6 * percentile(alone, 0.5)


def test_the_greedy_caller_keeps_its_throughput() -> None:
    def rate(*, fair: bool) -> float:
        clock = _Clock()
        for identity in range(100):
            clock.add(sequence_of(identity, unlike(identity, 84), caller="A"), 500)
        due, identity = 1.0, 10_000
        while clock.now < 20:
            if clock.now >= due:
                identity += 1
                clock.add(sequence_of(identity, unlike(identity, 84), caller="B" if fair else "A"), 16)
                due += 2
            clock.step()
        return sum(sequence.generated for sequence in clock.machine.scheduler.running) and clock.tokens / clock.now

    assert rate(fair=True) >= 0.95 * rate(fair=False)
