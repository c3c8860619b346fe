"""The best placement: real shapes on real machines, against exhaustive search over a simulated machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest

from model_shapes import SHAPES, parts_of
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CPU, CostModel, Placement
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.placement.search import best_placement

GB = 10**9
WORK = Work(cells=16384)
#: Memory in GB of the GPUs, and what one of that size reads and multiplies in a second.
GPUS = {8: (270e9, 12e12), 12: (360e9, 20e12), 16: (450e9, 25e12), 24: (1000e9, 70e12), 80: (2000e9, 250e12)}


def cpu(memory: int) -> Device:
    return Device(name="CPU", free=memory * GB, bandwidth=60e9, arithmetic=1e12, layer_seconds=20e-6)


def gpu(memory: int, number: int = 0) -> Device:
    bandwidth, arithmetic = GPUS[memory]
    return Device(
        name=f"CUDA{number}",
        free=memory * GB,
        bandwidth=bandwidth,
        arithmetic=arithmetic,
        layer_seconds=60e-6,
        link_bandwidth=12e9,
        link_seconds=15e-6,
    )


MACHINES = [
    *([cpu(ram), gpu(vram)] for ram in (32, 512) for vram in GPUS),
    [cpu(128), gpu(24, 0), gpu(24, 1)],
]


def simulated(model: ModelParts, devices: Sequence[Device], placement: Placement, tokens: int) -> float:
    """Seconds of a pass, as a list of operations that a clock runs through. It shares no code with the prediction."""
    operations: list[tuple[int, float, float]] = []  # device, bytes, multiplications
    fixed: list[tuple[int, float]] = []
    transfers: list[tuple[int, int, float]] = []
    at = 0
    used = model.experts_used / model.experts if model.experts else 0.0
    touched = 1 - (1 - used) ** tokens
    for layer, home, experts in zip(model.layers, placement.homes, placement.experts, strict=True):
        transfers.append((at, home, 4.0 * model.width * tokens))
        depth = WORK.depth + tokens // 2
        depth = min(depth, layer.window) if layer.window else depth
        operations.append((home, layer.attention.bytes, layer.attention.weights * tokens))
        operations.append((home, layer.kv_bytes * depth, layer.kv_bytes * depth * tokens))
        operations.append((home, layer.feed_forward.bytes, layer.feed_forward.weights * tokens))
        fixed.append((home, devices[home].layer_seconds))
        if layer.experts.bytes:
            transfers += [(home, experts, 4.0 * model.width * tokens), (experts, home, 4.0 * model.width * tokens)]
            operations.append((experts, layer.experts.bytes * touched, layer.experts.weights * used * tokens))
        at = home
    transfers.append((at, placement.output, 4.0 * model.width))
    operations.append((placement.output, model.output.bytes, model.output.weights))
    transfers.append((placement.output, 0, 4.0 * model.vocabulary))
    clock = sum(seconds for _, seconds in fixed)
    for device, size, products in operations:
        clock += max(size / devices[device].bandwidth, products / devices[device].arithmetic)
    for source, target, size in transfers:
        for end in {source, target} - {0} if source != target else ():
            clock += devices[end].link_seconds + size / devices[end].link_bandwidth
    return clock


def seconds(model: ModelParts, devices: Sequence[Device], placement: Placement) -> float:
    decode = simulated(model, devices, placement, 1)
    prompt = simulated(model, devices, placement, WORK.pass_tokens) / WORK.pass_tokens
    return decode + WORK.prompt_weight * prompt


def every_placement(model: ModelParts, devices: Sequence[Device]) -> Iterator[Placement]:
    """Blocks of layers, and of the layers with experts the first ones on the CPU, then others, or at home."""
    layers, count = len(model.layers), len(devices)
    step = max(1, layers // (12 if count == 2 else 4))
    grid = sorted({*range(0, layers, step), layers})
    for blocks in itertools.product(grid, repeat=count - 1):
        if sum(blocks) > layers:
            continue
        homes = tuple(device for device, size in enumerate((layers - sum(blocks), *blocks)) for _ in range(size))
        for output in range(count):
            for apart in itertools.product(grid, repeat=count - 1) if model.experts else [(0,) * (count - 1)]:
                if sum(apart) > layers:
                    continue
                # ``apart`` layers have their experts on each further device, the others on the CPU; both orders.
                tail = tuple(device for device, size in enumerate((layers - sum(apart), *apart)) for _ in range(size))
                yield Placement(homes, tail if model.experts else homes, output)


def exhaustive(model: ModelParts, devices: Sequence[Device]) -> float | None:
    costs = CostModel(model, devices, WORK)
    best = None
    for placement in every_placement(model, devices):
        if all(used <= device.free for used, device in zip(costs.memory(placement), devices, strict=True)):
            found = seconds(model, devices, placement)
            best = found if best is None else min(best, found)
    return best


def fits(model: ModelParts, devices: Sequence[Device]) -> bool:
    """Whether the weights and caches fit into all memory together."""
    costs = CostModel(model, devices, WORK)
    needed = model.bytes + sum(costs.home_bytes(layer) for layer in model.layers)
    needed -= sum(layer.attention.bytes + layer.feed_forward.bytes for layer in model.layers)
    return needed <= sum(device.free for device in devices)


@pytest.mark.parametrize("name", SHAPES)
def test_within_a_tenth_of_the_best_on_every_machine(name: str) -> None:
    model = parts_of(SHAPES[name])
    for devices in MACHINES:
        best = exhaustive(model, devices)
        if best is None and not fits(model, devices):
            with pytest.raises(ConfigurationError):
                best_placement(model, devices, WORK)
            continue
        choice = best_placement(model, devices, WORK)
        for used, device in zip(choice.prediction.memory, devices, strict=True):
            assert used <= device.free
        if best is not None:  # The coarse grid may have missed the only ones that fit.
            assert seconds(model, devices, choice.placement) <= 1.1 * best, [device.free for device in devices]


@pytest.mark.parametrize("name", SHAPES)
def test_more_memory_is_never_slower(name: str) -> None:
    model = parts_of(SHAPES[name])
    for memory in (24, 80):
        last = float("inf")
        for free in (2, 4, 7, 11, 16, 23, 31, 48, 77, 130, 200):
            more = gpu(memory)
            devices = [cpu(512), Device(**{**{f: getattr(more, f) for f in more.__struct_fields__}, "free": free * GB})]
            try:
                cost = best_placement(model, devices, WORK).prediction.cost(WORK)
            except ConfigurationError:
                continue
            assert cost <= last * (1 + 1e-9), free
            last = cost


def test_what_fits_nowhere_is_refused_with_numbers() -> None:
    with pytest.raises(ConfigurationError, match="CPU 32"):
        best_placement(parts_of(SHAPES["671B, 8 of 256 experts"]), [cpu(32), gpu(24)], WORK)


def test_a_device_that_is_large_enough_gets_everything() -> None:
    model = parts_of(SHAPES["8B dense, Q4_K_M"])
    placement = best_placement(model, [cpu(64), gpu(24)], WORK).placement
    assert placement == Placement((1,) * 32, (1,) * 32, 1)


def test_experts_leave_first() -> None:
    """What each token touches has the fastest device; a part of the experts is with it as far as there is room."""
    model = parts_of(SHAPES["235B, 8 of 128 experts"])
    placement = best_placement(model, [cpu(256), gpu(24)], WORK).placement
    assert set(placement.homes) == {1}
    assert placement.output == 1
    assert 0 < placement.experts.count(1) < placement.experts.count(CPU)
