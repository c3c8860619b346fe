"""The plan: what of this machine each process uses, and why.

Makes it from what is known and changes nothing: threads are bound and memory is placed by the processes that the plan
is handed to. docs/machine.md tells users what is planned and why.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Reason(msgspec.Struct, frozen=True):
    """Why one thing was chosen: in words for the person who may override it."""

    choice: str  #: what was chosen, such as ``decode threads``
    value: str
    why: str


class PoolPlan(msgspec.Struct, frozen=True):
    """One pool of the engine's threads."""

    threads: Annotated[int, Meta(ge=1)]
    cpus: tuple[int, ...] = ()  #: the kernel's CPU numbers that they may run on; empty leaves them unbound
    strict: bool = False  #: each thread stays on one CPU of its own instead of moving between all of ``cpus``
    poll: Annotated[int, Meta(ge=0, le=100)] = 50  #: how long they spin for work before they sleep; 0 sleeps at once
    priority: Annotated[int, Meta(ge=-1, le=3)] = 0  #: ``ggml_sched_priority``: -1 low, 0 normal, to 3 real time


class ReplicaPlan(msgspec.Struct, frozen=True):
    """One engine process."""

    node: int | None  #: the NUMA node that its memory is bound to; None leaves memory to the kernel
    decode: PoolPlan
    prefill: PoolPlan
    interleave: tuple[int, ...] = ()  #: NUMA nodes that its memory is spread over page by page; only without ``node``
    main: tuple[int, ...] = ()  #: CPUs of the thread that steps, where pools aren't bound; empty for anywhere

    @property
    def cpus(self) -> frozenset[int]:
        """Where its threads may run, all together; empty for anywhere."""
        if not (self.decode.cpus and self.prefill.cpus):
            return frozenset()
        return frozenset(self.decode.cpus + self.prefill.cpus)


class MachinePlan(msgspec.Struct, frozen=True):
    """The whole machine's plan. At least one replica."""

    replicas: tuple[ReplicaPlan, ...]
    http_cpus: tuple[int, ...] = ()  #: CPUs of the HTTP process; empty leaves it unbound
    reasons: tuple[Reason, ...] = ()


class ModelNeeds(msgspec.Struct, frozen=True):
    """What one replica of the model takes, in bytes."""

    weights: int
    kv: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv
