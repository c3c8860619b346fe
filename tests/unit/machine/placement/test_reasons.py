"""Why a placement is the best one, in sentences."""

from __future__ import annotations

from msgspec.structs import replace

from benchmarks.placement.machines import GB, cpu, gpu, machine
from benchmarks.placement.shapes import SHAPES, parts_of
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.reasons import reasons
from tailrace.machine.placement.search import best_placement

WORK = Work(cells=16384)


def told(name: str, devices: list[Device]) -> list[str]:
    model = parts_of(SHAPES[name])
    return reasons(model, devices, WORK, best_placement(model, devices, WORK))


def test_what_limits_is_the_device_that_takes_most_of_the_time() -> None:
    first, *_ = told("235B, 8 of 128 experts", machine(256, (24,)))
    assert "local takes" in first
    assert "CUDA0 takes 9" in told("8B dense, Q4_K_M", machine(64, (24,)))[0]


def test_more_memory_is_told_where_it_makes_a_difference() -> None:
    assert told("70B dense, Q4_K_M", machine(128, (24,)))[-1].startswith("With 8.0 GB more on CUDA0 it would decode")
    assert "would change nothing" in told("8B dense, Q4_K_M", machine(64, (24,)))[-1]


def test_a_device_without_a_part_is_named() -> None:
    slow = replace(cpu(64 * GB), name="far", link_bandwidth=1e6, link_seconds=0.1)
    found = told("8B dense, Q4_K_M", [cpu(64 * GB), gpu(24), slow])
    assert "far would make a token slower, so nothing is there." in found
