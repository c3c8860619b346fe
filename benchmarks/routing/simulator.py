"""Simulates replicas on a trace: what each way to choose a replica reads again, and how long first tokens take.

Discrete events without a clock. The caches are the engine's own accounting of host memory (``PrefixStore``), with
blocks instead of tokens, so prefixes leave in the same order. Prompts are computed one after the other, replies beside
each other; routers see a state that is up to a tenth of a second old.

``python -m benchmarks.routing.simulator [TRACE]`` prints a table; without a trace it generates one.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.routing.policies import POLICIES, Policy
from benchmarks.routing.trace import Turn, generated, load
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.routing.sent_requests import Prompt, SentRequests
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS
from tailrace.cluster_protocol.state import CHANGE_SECONDS, ModelLoad
from tailrace.engine.kv_cache.prefix_store import PrefixStore, common_prefix

MODEL = "model"
#: The part by which each further sequence lengthens a step that decodes.
_SEQUENCE_PART = 0.05
#: Weight of the newest reply in a replica's mean.
_REPLY_WEIGHT = 0.1


@dataclass(frozen=True)
class Machine:
    """One replica's size: slots, tokens of prefixes, prompt tokens a second, seconds of a step with one sequence."""

    slots: int = 8
    memory_tokens: int = 32_768
    prefill_speed: float = 1500.0
    step_seconds: float = 0.02

    def times(self, number: int) -> Machine:
        """One machine as large as so many."""
        return Machine(self.slots * number, self.memory_tokens * number, self.prefill_speed * number, self.step_seconds)


@dataclass
class Outcome:
    """What one way to choose a replica leads to."""

    computed: int = 0  #: prompt tokens
    known: int = 0  #: of them those that some replica had computed before: what is read again
    first_tokens: list[float] = field(default_factory=list)  #: seconds from a request to its first token
    requests: list[int] = field(default_factory=list)  #: of each replica

    @property
    def balance(self) -> float:
        """The requests of the replica with the most, divided by the mean."""
        return max(self.requests) / statistics.mean(self.requests)

    def first_token(self, percent: int) -> float:
        """That percentile of the seconds to the first token."""
        ordered = sorted(self.first_tokens)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class _Request(NamedTuple):
    number: int
    turn: Turn
    chain: list[int]
    arrived: float


class _Replica:
    """One replica's queue, slots and cache."""

    def __init__(self, number: int, machine: Machine) -> None:
        self.machine = machine
        self.view = ReplicaView(f"r{number}", "", 0, phase="ready")
        self.store = PrefixStore(machine.memory_tokens // BLOCK_TOKENS)
        self.queue: deque[_Request] = deque()
        self.running: dict[int, _Request] = {}
        self.computed: dict[int, list[int]] = {}  #: chains of running requests whose prompts are computed
        self.prefill_ends = 0.0
        self.mean_reply = 0.0  #: tokens

    def held(self, chain: list[int]) -> int:
        """Blocks of the chain that a sequence can start with."""
        stored = [tokens for _, tokens in self.store.items()]
        return max((common_prefix(each, chain) for each in (*stored, *self.computed.values())), default=0)

    def new_tokens(self, request: _Request) -> int:
        """Prompt tokens of the request that have to be computed; the last one always."""
        return max(1, request.turn.tokens - self.held(request.chain) * BLOCK_TOKENS)

    def publish(self, now: float) -> None:
        """Bring the view up to date."""
        speed = self.machine.prefill_speed
        waiting = sum(self.new_tokens(request) for request in self.queue)
        stored = dict(self.store.items())
        used = sum(map(self.store.size, stored))
        self.view.held = {block: "cells" for chain in (*self.computed.values(), *stored.values()) for block in chain}
        self.view.models = {
            MODEL: ModelLoad(
                name=MODEL,
                running=len(self.running),
                waiting=len(self.queue),
                waiting_prompt_tokens=waiting + round(max(0.0, self.prefill_ends - now) * speed),
                slots=self.machine.slots,
                engines=1,
                free_tokens=max(0, self.machine.memory_tokens - used * BLOCK_TOKENS),
                # A replica has measured nothing before its first reply.
                prefill_speed=speed if self.mean_reply else 0.0,
                reply_tokens=self.mean_reply,
                decode_speed=self._decode_speed(self.machine.slots) if self.mean_reply else 0.0,
            )
        }

    def _decode_speed(self, sequences: int) -> float:
        return sequences / self.step_seconds(sequences)

    def step_seconds(self, sequences: int) -> float:
        """Of a step in which so many sequences decode."""
        return self.machine.step_seconds * (1 + _SEQUENCE_PART * (sequences - 1))


class Simulation:
    """One run of a trace."""

    def __init__(self, trace: Sequence[Turn], machines: Sequence[Machine], policy: Policy) -> None:
        self._replicas = [_Replica(number, machine) for number, machine in enumerate(machines)]
        self._policy = policy
        self._sent = SentRequests()
        self._turns: defaultdict[int, deque[Turn]] = defaultdict(deque)
        for turn in trace:
            self._turns[turn.conversation].append(turn)
        self._events: list[tuple[float, int, str, _Replica | None, _Request | Turn | None]] = []
        self._order = count()
        self._numbers = count()
        self._ever: set[int] = set()  #: blocks that any replica has computed
        self.outcome = Outcome(requests=[0] * len(machines))

    def run(self) -> Outcome:
        """Simulate until all conversations have ended."""
        for turns in self._turns.values():
            first = turns.popleft()
            self._at(first.pause, "arrives", None, first)
        for replica in self._replicas:
            replica.publish(0.0)
        self._at(CHANGE_SECONDS, "publish", None, None)
        while self._events:
            now, _, kind, where, what = heappop(self._events)
            if kind == "publish":
                for each in self._replicas:
                    each.publish(now)
                if self._events:
                    self._at(now + CHANGE_SECONDS, "publish", None, None)
            elif isinstance(what, Turn):
                self._arrive(now, what)
            elif where is not None:
                assert what is not None, "it happens to a request"
                if kind == "first token":
                    self._begin_reply(now, where, what)
                else:
                    self._end(now, where, what)
        return self.outcome

    def _at(self, time: float, kind: str, replica: _Replica | None, what: _Request | Turn | None) -> None:
        heappush(self._events, (time, next(self._order), kind, replica, what))

    def _arrive(self, now: float, turn: Turn) -> None:
        request = _Request(next(self._numbers), turn, turn.chain, now)
        prompt = Prompt(turn.tokens, request.chain)
        views = [replica.view for replica in self._replicas]
        chosen = self._policy(turn.conversation, prompt, MODEL, views, self._sent)
        replica = self._replicas[chosen]
        self.outcome.requests[chosen] += 1
        self._sent.sent(request.number, replica.view.id, MODEL, [prompt], replica.new_tokens(request))
        replica.queue.append(request)
        self._start(now, replica)

    def _start(self, now: float, replica: _Replica) -> None:
        while replica.queue and len(replica.running) < replica.machine.slots:
            request = replica.queue.popleft()
            replica.running[request.number] = request
            held = replica.held(request.chain)
            new = replica.new_tokens(request)
            self.outcome.computed += new
            self.outcome.known += BLOCK_TOKENS * sum(block in self._ever for block in request.chain[held:])
            self._ever.update(request.chain)
            self._sent.begun(request.number)
            replica.prefill_ends = max(now, replica.prefill_ends) + new / replica.machine.prefill_speed
            self._at(replica.prefill_ends, "first token", replica, request)

    def _begin_reply(self, now: float, replica: _Replica, request: _Request) -> None:
        self.outcome.first_tokens.append(now - request.arrived)
        replica.computed[request.number] = request.chain
        seconds = request.turn.reply_tokens * replica.step_seconds(len(replica.running))
        self._at(now + seconds, "end", replica, request)

    def _end(self, now: float, replica: _Replica, request: _Request) -> None:
        del replica.running[request.number], replica.computed[request.number]
        self._sent.ended(request.number)
        tokens = request.turn.reply_tokens
        replica.mean_reply += (tokens - replica.mean_reply) * (_REPLY_WEIGHT if replica.mean_reply else 1.0)
        turns = self._turns[request.turn.conversation]
        # The reply's blocks are in the next prompt, where there is one: they were decoded here.
        following = turns[0].chain if turns else request.chain
        reply_blocks = (request.turn.tokens + request.turn.reply_tokens) // BLOCK_TOKENS
        held = following[:reply_blocks] if following[: len(request.chain)] == request.chain else request.chain
        self._ever.update(held)
        replica.store.offload(held)
        if turns:
            following_turn = turns.popleft()
            self._at(now + following_turn.pause, "arrives", None, following_turn)
        self._start(now, replica)


def simulate(trace: Sequence[Turn], machines: Sequence[Machine], policy: Policy) -> Outcome:
    """What the policy leads to on the trace."""
    return Simulation(trace, machines, policy).run()


def main() -> None:
    """Print a table of all policies, beside one machine with the sum of everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--slots", type=int, default=Machine.slots)
    parser.add_argument("--memory-tokens", type=int, default=Machine.memory_tokens, help="of each replica")
    parser.add_argument("--prefill-speed", type=float, default=Machine.prefill_speed)
    parser.add_argument("--seed", type=int, default=1, help="of the generated trace")
    options = parser.parse_args()
    trace = load(options.trace) if options.trace is not None else generated(options.seed)
    machine = Machine(options.slots, options.memory_tokens, options.prefill_speed)
    table = Table("policy", "tokens computed", "read again", "first token p50", "p95", "balance", box=None)
    whole = simulate(trace, [machine.times(options.replicas)], POLICIES["round robin"]())
    rows = {"one machine with all memory": whole}
    rows |= {name: simulate(trace, [machine] * options.replicas, make()) for name, make in POLICIES.items()}
    for name, found in rows.items():
        table.add_row(
            name,
            f"{found.computed:,} ({found.computed / whole.computed:.2f} ×)",
            f"{found.known:,}",
            f"{1e3 * found.first_token(50):.0f} ms",
            f"{1e3 * found.first_token(95):.0f} ms",
            f"{found.balance:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
