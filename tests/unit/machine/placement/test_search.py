"""The best placement: real shapes on real machines, against trying placements on a simulated machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from benchmarks.placement.every_placement import EveryPlacement
from benchmarks.placement.machines import GB, GPUS, MACHINES, cpu, gpu, machine
from benchmarks.placement.shapes import SHAPES, parts_of
from benchmarks.placement.simulated_machine import SimulatedMachine
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CostModel, Prediction
from tailrace.machine.placement.demands import Demands
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.placement.remaining_cost import RemainingCost
from tailrace.machine.placement.search import best_placement

WORK = Work(cells=16384)
DENSE, MIXTURE = "70B dense, Q4_K_M", "235B, 8 of 128 experts"

shape = cache(lambda name: parts_of(SHAPES[name]))


def check(model: ModelParts, devices: Sequence[Device], work: Work = WORK) -> None:
    """The placement is within memory, as its prediction says, and within a tenth of the best one."""
    simulated = SimulatedMachine(model, devices, work)
    best = EveryPlacement(simulated).best()
    try:
        choice = best_placement(model, devices, work)
    except ConfigurationError:
        assert best is None
        return
    assert simulated.fits(choice.placement)
    assert list(choice.prediction.memory) == simulated.memory(choice.placement)
    assert choice.prediction.decode_seconds == pytest.approx(simulated.run(choice.placement, 1))
    assert best is None or simulated.seconds(choice.placement) <= 1.1 * best[0]


@pytest.mark.parametrize(("number", "name"), list(enumerate(SHAPES)))
def test_within_a_tenth_of_the_best(number: int, name: str) -> None:
    """Every third machine, another one for the next shape; ``python -m benchmarks.placements`` has all of them."""
    for memory, gpus in MACHINES[number % 3 :: 3]:
        check(shape(name), machine(memory, gpus))


@settings(deadline=None, max_examples=6)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    memory=st.floats(4, 600),
    gpus=st.lists(st.tuples(st.sampled_from(sorted(GPUS)), st.floats(0.1, 100)), min_size=1, max_size=2),
    cells=st.sampled_from([512, 16384, 131072]),
    depth=st.sampled_from([0, 2048, 100_000]),
)
def test_odd_sizes(name: str, memory: float, gpus: list[tuple[int, float]], cells: int, depth: int) -> None:
    devices = [cpu(int(memory * GB))]
    devices += [gpu(kind, number=number, free=int(free * GB)) for number, (kind, free) in enumerate(gpus)]
    check(shape(name), devices, Work(cells=cells, depth=depth))


@settings(deadline=None, max_examples=12)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    free=st.lists(st.integers(0, 120 * GB), min_size=2, max_size=4),
    more=st.integers(0, 40 * GB),
    which=st.integers(0, 3),
    cells=st.sampled_from([512, 16384, 131072]),
)
def test_more_memory_is_never_slower(name: str, free: list[int], more: int, which: int, cells: int) -> None:
    work = Work(cells=cells)
    devices = [cpu(4 * free[0]), *(gpu(24, number=number, free=each) for number, each in enumerate(free[1:]))]
    which %= len(devices)
    larger = [replace(each, free=each.free + more * (number == which)) for number, each in enumerate(devices)]
    try:
        before = best_placement(shape(name), devices, work).prediction.cost(work)
    except ConfigurationError:
        return
    assert best_placement(shape(name), larger, work).prediction.cost(work) <= before * (1 + 1e-9)


@settings(deadline=None, max_examples=12)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    memory=st.floats(8, 200),
    gpus=st.lists(st.tuples(st.sampled_from(sorted(GPUS)), st.floats(0.5, 60)), min_size=2, max_size=3),
    local=st.booleans(),
)
def test_the_bound_drops_no_better_placement(
    name: str, memory: float, gpus: list[tuple[int, float]], local: bool
) -> None:
    """With a bound that drops nothing the search finds nothing better."""
    devices = [cpu(int(memory * GB))]
    devices += [gpu(kind, number=number, free=int(free * GB)) for number, (kind, free) in enumerate(gpus)]
    demands = Demands(local=local)

    def cost() -> float | None:
        try:
            return best_placement(shape(name), devices, WORK, demands).prediction.cost(WORK)
        except ConfigurationError:
            return None

    found = cost()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemainingCost, "min_seconds", lambda *_: float("-inf"))
        assert cost() == (found if found is None else pytest.approx(found, rel=1e-9))


def test_a_window_shortens_what_attention_reads_and_not_the_cache() -> None:
    model = shape("20B, 4 of 32 experts")
    whole = replace(model, layers=tuple(replace(layer, window=0) for layer in model.layers))
    homes = (CPU,) * len(model.layers)
    placement = Placement(homes=homes, feeds=homes, output=CPU)

    def predictions(device: Device) -> list[Prediction]:
        work = Work(cells=16384, depth=8192)
        return [CostModel(each, [device], work).predict(placement) for each in (model, whole)]

    windows, caches = predictions(cpu(64 * GB))
    assert windows.memory == caches.memory
    read = sum(layer.kv_bytes * (8192 - layer.window) for layer in model.layers if layer.window)
    assert caches.decode_seconds - windows.decode_seconds == pytest.approx(read / cpu(1).bandwidth)
    windows, caches = predictions(replace(cpu(64 * GB), reads_whole_caches=True))
    assert windows == caches


def test_a_local_cache_is_attended_to_by_the_cpu() -> None:
    """The device gets no cells: the queries go to the CPU, and their results come back."""
    model = shape(DENSE)
    placement = Placement(homes=(1,) * 80, feeds=(1,) * 80, output=1, kv_is_local=True)

    def seconds(depth: int) -> float:
        costs = CostModel(model, machine(512, (80,)), Work(cells=65536, depth=depth), kv_is_local=True)
        return costs.predict(placement).decode_seconds

    cells = sum(layer.kv_bytes for layer in model.layers)
    assert seconds(10_000) - seconds(0) == pytest.approx(10_000 * cells / cpu(1).bandwidth)


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    free=st.lists(st.floats(0.5, 60), min_size=1, max_size=2),
    local=st.booleans(),
    bandwidth=st.sampled_from([1e9, 12e9, 60e9, 200e9]),
)
def test_workers_take_what_the_simulated_machine_takes(
    name: str, free: list[float], local: bool, bandwidth: float
) -> None:
    """A worker is told anew what it computes where it waits for another device in between."""
    worker = replace(
        cpu(1),
        bandwidth=bandwidth,
        submit_seconds=5e-5,
        link_bandwidth=1e9,
        link_seconds=1e-4,
        read_seconds=5e-5,
        write_seconds=2e-5,
    )
    devices = [cpu(600 * GB), *(replace(worker, free=int(each * GB), name=f"worker{each}") for each in free)]
    choice = best_placement(shape(name), devices, WORK, Demands(local=local))
    simulated = SimulatedMachine(shape(name), devices, WORK)
    assert choice.prediction.decode_seconds == pytest.approx(simulated.run(choice.placement, 1))


def test_a_worker_with_all_parts_of_its_layers_is_told_once() -> None:
    model = shape(MIXTURE)
    worker = replace(cpu(1), link_bandwidth=1e9)
    homes = (1,) * len(model.layers)
    for feeds, layers in ((homes, 0), ((CPU, *homes[1:]), len(homes))):
        placement = Placement(homes=homes, feeds=feeds, output=1)
        plain, told = (
            CostModel(model, [cpu(1), replace(worker, submit_seconds=each)], WORK).predict(placement).decode_seconds
            for each in (0.0, 1e-3)
        )
        assert told - plain == pytest.approx(layers * 1e-3)


def test_what_fits_nowhere_is_refused_with_numbers() -> None:
    with pytest.raises(ConfigurationError, match="local 32"):
        best_placement(shape("671B, 8 of 256 experts"), machine(32, (24,)), WORK)


def test_a_device_that_is_large_enough_gets_everything() -> None:
    placement = best_placement(shape("8B dense, Q4_K_M"), machine(64, (24,)), WORK).placement
    assert placement == Placement(homes=(1,) * 32, feeds=(1,) * 32, output=1)


def test_experts_leave_first() -> None:
    """What each token touches has the fastest device; a part of the experts is with it as far as there is room."""
    placement = best_placement(shape(MIXTURE), machine(256, (24,)), WORK).placement
    assert set(placement.homes) == {1}
    assert placement.output == 1
    assert 0 < placement.feeds_on(1) < placement.feeds_on(CPU)


def test_a_long_cache_parts_attention_from_feed_forward() -> None:
    """The device's memory is for weights, which each token reads whole, and not for cells that few requests reach."""
    devices = [cpu(512 * GB), gpu(24)]
    placement = best_placement(shape("32B dense, Q4_K_M"), devices, Work(cells=524288)).placement
    assert placement.feeds_on(1) > placement.layers_on(1)


def test_a_device_that_helps_nothing_gets_nothing() -> None:
    slow = replace(cpu(64 * GB), name="far", link_bandwidth=1e6, link_seconds=0.1)
    placement = best_placement(shape(DENSE), [cpu(128 * GB), slow], WORK).placement
    assert set(placement.homes) == {CPU}


def test_a_slow_device_gets_what_the_cpu_has_no_memory_for() -> None:
    slow = replace(cpu(64 * GB), name="far", bandwidth=30e9, link_bandwidth=100e6, link_seconds=0.001)
    placement = best_placement(shape(DENSE), [cpu(32 * GB), slow], WORK).placement
    assert 0 < placement.layers_on(1) < placement.layers_on(CPU)


@pytest.mark.parametrize("name", [DENSE, MIXTURE])
def test_without_local_the_cpu_gets_what_others_have_no_memory_for(name: str) -> None:
    slow = replace(cpu(400 * GB), name="far", link_bandwidth=1e6, link_seconds=0.1)
    demands = Demands(local=False)
    whole = best_placement(shape(name), [cpu(512 * GB), slow], WORK, demands).placement
    assert set(whole.homes) == set(whole.feeds) == {1}
    part = best_placement(shape(name), [cpu(512 * GB), replace(slow, free=30 * GB)], WORK, demands)
    assert 0 < part.placement.feeds_on(1) < len(shape(name).layers)
    assert part.prediction.memory[1] > 25 * GB


def test_demands_are_kept() -> None:
    model, devices = shape(DENSE), [cpu(512 * GB), gpu(80, number=0), gpu(80, number=1)]
    chosen = best_placement(model, devices, WORK, Demands(homes={79: 1, 10: 2}, order=(2, 1), output=CPU)).placement
    assert (chosen.homes[79], chosen.homes[10], chosen.output) == (1, 2, CPU)
    last = best_placement(model, devices, WORK, Demands(device_layers=7)).placement
    assert [home != CPU for home in last.homes] == [feed != CPU for feed in last.feeds] == [False] * 73 + [True] * 7
    kept = best_placement(model, devices, WORK, Demands(homes=dict.fromkeys(range(80), 1), kv_is_local=True))
    assert kept.placement.attends_on_cpu
    assert kept.prediction.memory[CPU] > model.embedding.bytes + 16384 * sum(each.kv_bytes for each in model.layers)


def test_demands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="CUDA0 24"):
        best_placement(shape(DENSE), machine(512, (24,)), WORK, Demands(homes=dict.fromkeys(range(80), 1)))


def test_a_start_does_not_wait_for_its_plan() -> None:
    devices = machine(512, (24, 24))
    begun = time.process_time()
    best_placement(shape("671B, 8 of 256 experts"), devices, WORK)
    best_placement(shape(DENSE), devices, WORK)
    # A hang bound: each takes a tenth of a second.
    assert time.process_time() - begun < 30


def test_a_gpu_computes_prompts_with_weights_of_the_cpu() -> None:
    """They are copied one by one, each for the whole pass. A short pass is the CPU's."""
    model, devices = shape(DENSE), machine(512, (24,))
    placement = Placement(homes=(1,) * 80, feeds=(CPU,) * 80, output=1)

    def prediction(pass_tokens: int, copies_from: int) -> Prediction:
        gpus = [devices[0], replace(devices[1], copies_from=copies_from)]
        return CostModel(model, gpus, Work(cells=16384, pass_tokens=pass_tokens)).predict(placement)

    copied, computed = prediction(512, 32), prediction(512, 0)
    feeds = sum(layer.feed_forward.bytes for layer in model.layers)
    assert copied.decode_seconds == computed.decode_seconds
    assert copied.prompt_seconds * 512 > feeds / devices[1].link_bandwidth
    assert copied.prompt_seconds < computed.prompt_seconds / 4
    assert copied.memory[1] - computed.memory[1] == max(layer.feed_forward.largest for layer in model.layers)
    assert prediction(16, 32) == prediction(16, 0)


def test_a_gpu_without_a_part_computes_nothing_of_prompts() -> None:
    model, devices = shape(DENSE), machine(512, (24,))
    homes = (CPU,) * 80
    alone = CostModel(model, devices, WORK).predict(Placement(homes=homes, feeds=homes, output=CPU))
    assert alone.prompt_seconds > sum(layer.feed_forward.weights for layer in model.layers) / devices[0].arithmetic
