"""The structs of the plan: the CPUs, threads and memory nodes of each process, and the reason of each choice.

``planner`` makes a plan, and each process applies its part (``binding``). docs/machine.md describes it for users.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Reason(msgspec.Struct, frozen=True):
    """The reason of one choice, in words for a user who may override it."""

    choice: str  #: such as ``decode threads``
    value: str
    why: str


class PoolPlan(msgspec.Struct, frozen=True):
    """One pool of compute threads."""

    threads: Annotated[int, Meta(ge=1)]
    cpus: tuple[int, ...] = ()  #: CPUs that the threads may run on; empty: they aren't bound
    strict: bool = False  #: each thread is bound to one CPU of its own instead of all of ``cpus``
    poll: Annotated[int, Meta(ge=0, le=100)] = 50  #: how long threads spin for work before they sleep; 0: not at all
    priority: Annotated[int, Meta(ge=-1, le=3)] = 0  #: ``ggml_sched_priority``: -1 is low, 0 normal, 3 real time


class ReplicaPlan(msgspec.Struct, frozen=True):
    """One engine process."""

    node: int | None  #: the NUMA node that its memory is bound to; None: the kernel chooses
    decode: PoolPlan
    prefill: PoolPlan
    interleave: tuple[int, ...] = ()  #: NUMA nodes that memory is spread over page by page; only without ``node``
    main: tuple[int, ...] = ()  #: CPUs of the engine's main thread, where pools aren't bound; empty: any CPU

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs of all its threads; empty: any CPU."""
        if not (self.decode.cpus and self.prefill.cpus):
            return frozenset()
        return frozenset(self.decode.cpus + self.prefill.cpus)


class MachinePlan(msgspec.Struct, frozen=True):
    """The plan of the whole machine. It has at least one replica."""

    replicas: tuple[ReplicaPlan, ...]
    http_cpus: tuple[int, ...] = ()  #: CPUs of the HTTP process; empty: it isn't bound
    reasons: tuple[Reason, ...] = ()


class ModelNeeds(msgspec.Struct, frozen=True):
    """The memory of one replica of the model, in bytes."""

    weights: int
    kv: int

    @property
    def total(self) -> int:
        """Weights and KV cache together."""
        return self.weights + self.kv
