"""Measures the memory bandwidth and writes the record as JSON to standard output. A process of its own.

Run as ``python -m tailrace.diagnosis.measure_bandwidth CPUS``. Exit status 1: the machine is busy, so a result would be
of no use. It uses numpy, which the HTTP process doesn't load, and the engine's CPUs, where that may not run.
"""

from __future__ import annotations

import os
import sys
import time

import msgspec

from tailrace.diagnosis.machine_sample import busy_seconds, read_machine
from tailrace.diagnosis.measured_bandwidth import MeasuredBandwidth
from tailrace.machine import cpulist
from tailrace.machine.binding import bind_cpus
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import machine_name

#: Part of the available memory for its buffers: the weights must stay in the page cache.
_MEMORY_PART = 0.05
#: CPU seconds per second that other processes may use meanwhile.
_MAX_OTHERS = 0.2


def main(cpus: str) -> None:
    """Measure with the CPUs of the list ``cpus``."""
    bind_cpus(cpulist.parse(cpus))
    # numpy makes threads while it is imported, and they have to inherit the binding.
    from tailrace.machine.bandwidth import measure_bandwidth

    topology = read_topology()
    begun, before, used = time.monotonic(), read_machine((), os.getpid()), time.process_time()
    rates = {each.node: each.best for each in measure_bandwidth(topology, memory_part=_MEMORY_PART)}
    seconds, own = time.monotonic() - begun, time.process_time() - used
    others = busy_seconds(before, read_machine((), os.getpid()), topology.usable) - own
    if not rates or others > _MAX_OTHERS * seconds:
        sys.exit(f"other processes used {others:.2f} s of CPU in {seconds:.2f} s" if rates else "no memory for it")
    record = MeasuredBandwidth(
        machine=machine_name(topology),
        usable=cpulist.format_cpus(topology.usable),
        measured_at=time.time(),
        rates=rates,
    )
    os.write(1, msgspec.json.encode(record))


if __name__ == "__main__":
    main(sys.argv[1])
