"""The memory bandwidth of this machine, and threads of the measurement that fail."""

from __future__ import annotations

import os
import sys

import pytest

from tailrace.machine import bandwidth
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't bind threads")
def test_a_thread_that_can_not_be_bound_ends_the_measurement() -> None:
    """The other thread waits for it: it used to wait forever."""
    usable = min(os.sched_getaffinity(0))
    with pytest.raises(OSError, match="Invalid argument"):
        bandwidth._rate(2, 1 << 20, [usable, 8191])
