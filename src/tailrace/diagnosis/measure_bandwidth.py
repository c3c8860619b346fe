"""Measures the memory bandwidth and writes the record as JSON to standard output. A process of its own.

Run as ``python -m tailrace.diagnosis.measure_bandwidth CPUS``. It uses numpy, which the HTTP process doesn't load, and
the engine's CPUs, on which the HTTP process may not run.
"""

from __future__ import annotations

import os
import sys
import time

import msgspec

from tailrace.diagnosis.measured_bandwidth import MeasuredBandwidth
from tailrace.machine import cpulist
from tailrace.machine.binding import bind_cpus
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import machine_name

#: Part of the available memory for its buffers: the weights must stay in the page cache.
_MEMORY_PART = 0.05


def main(cpus: str) -> None:
    """Measure with the CPUs of the list ``cpus``."""
    bind_cpus(cpulist.parse(cpus))
    # numpy makes threads while it is imported, and they have to inherit the binding.
    from tailrace.machine.bandwidth import measure_bandwidth

    topology = read_topology()
    record = MeasuredBandwidth(
        machine=machine_name(topology),
        usable=cpulist.format_cpus(topology.usable),
        measured_at=time.time(),
        rates={each.node: each.best for each in measure_bandwidth(topology, memory_part=_MEMORY_PART)},
    )
    os.write(1, msgspec.json.encode(record))


if __name__ == "__main__":
    main(sys.argv[1])
