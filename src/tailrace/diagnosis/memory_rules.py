"""Rules about memory: evicted weights, swap, pressure, and NUMA nodes."""

from __future__ import annotations

from collections.abc import Iterator

from tailrace.diagnosis.catalogue import Finding, finding
from tailrace.diagnosis.sample import Interval
from tailrace.diagnosis.wording import percent, size

#: Page faults and pages per second from which a disk slows the server down.
MIN_FAULTS = 20.0
MIN_SWAPPED_IN = 20.0
#: Bytes of the server in swap that are worth a word: a sleeping process always loses some.
MIN_SWAPPED = 16 << 20
#: Part of the time in which tasks wait for memory.
MIN_PRESSURE = 0.05
#: Part of an engine's memory that may be on other nodes.
MAX_FAR = 0.10

_PAGE = 4096


def memory_findings(interval: Interval) -> Iterator[Finding]:
    """The findings, in no order."""
    yield from _faults(interval)
    yield from _swap(interval)
    yield from _pressure(interval)
    yield from _nodes(interval)


def _faults(interval: Interval) -> Iterator[Finding]:
    for before, after in interval.engine_processes:
        faults = (after.major_faults - before.major_faults) / interval.seconds
        if faults >= MIN_FAULTS:
            yield finding(
                "weights_evicted",
                f"The {after.role} process read {faults:.0f} pages a second from a disk (at least "
                f"{size(faults * _PAGE)}/s); {size(interval.after.machine.available)} of memory are available.",
            )
            return


def _swap(interval: Interval) -> Iterator[Finding]:
    swapped = sum(process.swapped for process in interval.after.processes.values())
    pages = (interval.after.machine.swapped_in - interval.before.machine.swapped_in) / interval.seconds
    if swapped >= MIN_SWAPPED and pages >= MIN_SWAPPED_IN:
        yield finding(
            "swapping",
            f"{size(swapped)} of the server are in swap, and the machine reads {size(pages * _PAGE)}/s back.",
        )


def _pressure(interval: Interval) -> Iterator[Finding]:
    stall = (interval.after.machine.memory_stall - interval.before.machine.memory_stall) / interval.seconds
    if stall >= MIN_PRESSURE:
        machine = interval.after.machine
        yield finding(
            "memory_pressure",
            f"Tasks waited for memory in {percent(stall)} of the time; {size(machine.available)} of "
            f"{size(machine.memory)} are available.",
        )


def _nodes(interval: Interval) -> Iterator[Finding]:
    node_of = interval.facts.node_of
    if not node_of or interval.facts.interleaved:
        return
    for _, engine in interval.engine_processes:
        near = {node_of[cpu] for thread in engine.compute.values() for cpu in thread.allowed if cpu in node_of}
        total = sum(engine.nodes.values())
        far = sum(size for node, size in engine.nodes.items() if node not in near)
        if total and near and far >= MAX_FAR * total:
            nodes = ", ".join(map(str, sorted(near)))
            yield finding(
                "far_memory",
                f"{percent(far / total)} of the {engine.role} process's memory ({size(far)}) are on other NUMA nodes "
                f"than its threads (node {nodes}).",
            )
