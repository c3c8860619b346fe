"""Numbers of devices that nothing has measured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.machine.placement.assumed import device_of, usable


def test_what_is_measured_is_not_assumed() -> None:
    device = device_of("w:1", "worker gpu", 10**9, bandwidth=7e9, link_seconds=0.5)
    assert (device.bandwidth, device.link_seconds) == (7e9, 0.5)
    assert "bandwidth" not in device.assumed
    assert "arithmetic" in device.assumed
    assert "link_bandwidth" in device.assumed


def test_the_cpu_has_no_link_to_itself() -> None:
    assert device_of("local", "cpu", 10**9).link_bandwidth == float("inf")


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 40))
def test_more_free_memory_is_never_less_usable(free: int, more: int) -> None:
    assert 0 <= usable(free) <= usable(free + more) <= free + more
