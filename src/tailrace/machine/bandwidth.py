"""Measures how fast this machine reads memory, because the kernel doesn't report it.

Decoding reads all weights in each step. So bandwidth divided by the model's size is an upper bound of tokens per second
for one sequence.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import numpy.typing as npt

from tailrace.machine.free_memory import available_memory
from tailrace.machine.topology import Topology

#: Bytes of each thread's buffer: a multiple of its part of the caches, within these bounds.
_MIN_BYTES, _MAX_BYTES = 64 << 20, 512 << 20
_CACHE_MULTIPLE = 4
#: Part of the available memory that all buffers together may take.
_MEMORY_PART = 0.25
#: Seconds that each measurement reads.
_SECONDS = 0.15


class Bandwidth(msgspec.Struct, frozen=True):
    """The bandwidth of one NUMA node's CPUs to the node's own memory."""

    node: int
    rates: dict[int, float]  #: bytes per second of all threads together, by number of threads

    @property
    def best(self) -> float:
        """Bytes per second at the best number of threads."""
        return max(self.rates.values())


def measure_bandwidth(topology: Topology, *, memory_part: float = _MEMORY_PART) -> list[Bandwidth]:
    """Measure each node with one thread, with half and with all of its usable cores; under a second per node.

    ``memory_part``: the part of the available memory that all buffers together may take.

    On machines with several nodes, threads are bound to the node, and so is memory that they touch first. Nodes without
    memory for the buffers are left out.
    """
    measured = []
    for number in sorted({core.node for core in topology.usable_cores}):
        cores = [core for core in topology.usable_cores if core.node == number and not core.efficiency]
        cores = cores or [core for core in topology.usable_cores if core.node == number]
        max_threads = min(len(cores), int(topology.quota or len(cores)) or 1)
        bind = [core.cpus[0] for core in cores] if len(topology.nodes) > 1 and topology.affinity is not None else None
        size = _buffer_bytes(topology, max_threads, memory_part)
        if size:
            rates = {count: _rate(count, size, bind) for count in sorted({1, (max_threads + 1) // 2, max_threads})}
            measured.append(Bandwidth(number, rates))
    return measured


def _buffer_bytes(topology: Topology, threads: int, memory_part: float) -> int:
    """Bytes of each thread's buffer; 0 where there is too little memory to measure."""
    cache = sum(cache.bytes for cache in topology.caches)
    size = min(_MAX_BYTES, max(_MIN_BYTES, _CACHE_MULTIPLE * cache // threads))
    size = min(size, int(memory_part * available_memory()) // threads)
    return size // 4096 * 4096 if size >= _MIN_BYTES // 4 else 0


def _rate(threads: int, size: int, bind: Sequence[int] | None) -> float:
    """Bytes per second of ``threads`` threads that each read a buffer of ``size`` bytes repeatedly."""
    barrier = threading.Barrier(threads)

    def buffer_of(number: int) -> npt.NDArray[np.int64]:
        try:
            if bind is not None:
                os.sched_setaffinity(0, {bind[number]})  # Binds this thread only.
            data = np.ones(size // 8, np.int64)  # Written by this thread, so the pages are on its node.
            data.max()
        except BaseException:
            barrier.abort()  # The other threads would wait forever.
            raise
        return data

    def read(number: int) -> float:
        data = buffer_of(number)
        barrier.wait()
        begun, done = time.perf_counter(), 0
        # NumPy's max is as fast as memory, and releases Python's lock.
        while (elapsed := time.perf_counter() - begun) < _SECONDS:
            data.max()
            done += size
        return done / elapsed

    with ThreadPoolExecutor(threads) as pool:
        readers = [pool.submit(read, number) for number in range(threads)]
    errors = [error for reader in readers if (error := reader.exception()) is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error  # The cause: the other threads only have a broken barrier.
    return sum(reader.result() for reader in readers)
