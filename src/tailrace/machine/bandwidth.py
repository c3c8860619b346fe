"""How fast this machine reads memory: measured, because neither the kernel nor the memory tells.

Decoding reads all weights for each step, so this over the model's size is the most tokens a second that one stream can
have.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from tailrace.machine.free_memory import available_memory
from tailrace.machine.topology import Topology

#: Bytes of each thread's buffer: far above the caches that it has a part in, and within bounds.
_SMALLEST, _LARGEST = 64 << 20, 512 << 20
_TIMES_CACHE = 4
#: Part of the available memory that all buffers together may take.
_MEMORY_PART = 0.25
#: How long the reading of one measurement lasts, about.
_SECONDS = 0.15


class Bandwidth(msgspec.Struct, frozen=True):
    """What was measured on one NUMA node, reading memory of its own."""

    node: int
    rates: dict[int, float]  #: threads → bytes a second, all of them together

    @property
    def best(self) -> float:
        """Bytes a second at the best number of threads."""
        return max(self.rates.values())


def measure_bandwidth(topology: Topology) -> list[Bandwidth]:
    """Read with one thread, half and all of each node's usable cores; under a second a node.

    On machines with several nodes threads are bound to the node, and so is what they touch first. Nodes where there is
    no memory for the buffers are left out.
    """
    measured = []
    for number in sorted({core.node for core in topology.usable_cores}):
        cores = [core for core in topology.usable_cores if core.node == number and not core.efficiency]
        cores = cores or [core for core in topology.usable_cores if core.node == number]
        most = min(len(cores), int(topology.quota or len(cores)) or 1)
        bind = [core.cpus[0] for core in cores] if len(topology.nodes) > 1 and topology.affinity is not None else None
        size = _buffer_bytes(topology, most)
        if size:
            rates = {count: _rate(count, size, bind) for count in sorted({1, (most + 1) // 2, most})}
            measured.append(Bandwidth(number, rates))
    return measured


def _buffer_bytes(topology: Topology, threads: int) -> int:
    """Bytes of each thread's buffer; 0 where memory is too short to measure anything."""
    cache = sum(cache.bytes for cache in topology.caches)
    size = min(_LARGEST, max(_SMALLEST, _TIMES_CACHE * cache // threads))
    size = min(size, int(_MEMORY_PART * available_memory()) // threads)
    return size // 4096 * 4096 if size >= _SMALLEST // 4 else 0


def _rate(threads: int, size: int, bind: Sequence[int] | None) -> float:
    """Bytes a second of ``threads`` that read ``size`` bytes each, again and again, at the same time."""
    barrier = threading.Barrier(threads)

    def read(number: int) -> float:
        if bind is not None:
            os.sched_setaffinity(0, {bind[number]})  # Of this thread alone.
        data = np.ones(size // 8, np.int64)  # Written here, so that its pages lie near.
        data.max()
        barrier.wait()
        begun, done = time.perf_counter(), 0
        # The largest element is found at the speed of memory, and without the lock that Python's threads share.
        while (elapsed := time.perf_counter() - begun) < _SECONDS:
            data.max()
            done += size
        return done / elapsed

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(read, range(threads)))
