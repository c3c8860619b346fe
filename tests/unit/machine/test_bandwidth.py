"""The memory bandwidth of this machine."""

from __future__ import annotations

from tailrace.machine.bandwidth import measure_bandwidth
from tailrace.machine.topology import read_topology


def test_bandwidth_of_this_machine() -> None:
    topology = read_topology()
    measured = measure_bandwidth(topology)
    assert [each.node for each in measured] == sorted({core.node for core in topology.usable_cores})
    for each in measured:
        assert 1 in each.rates
        # Slower than any memory that runs this, and faster than any cache of many cores.
        assert all(1e8 < rate < 1e14 for rate in each.rates.values())
        assert each.best == max(each.rates.values())
