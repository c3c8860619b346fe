"""A placement's prediction from measured devices: formats by device, and what goes over a link."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tailrace.engine.devices.placement_prediction import (
    DeviceWeights,
    MeasuredSpeed,
    devices_of,
    predict,
    weights_by_device,
)
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import Placement
from tailrace.machine.placement.parts import Layer, ModelParts, Part
from tailrace.models.gguf_file import Tensor
from tailrace.worker_protocol.device_speed import DeviceSpeed, LinkSpeed, ProductSpeed, Weights

_SPEED = DeviceSpeed(
    products={
        "Q4_0": ProductSpeed(bandwidth=40e9, arithmetic=1e12),
        "Q8_0": ProductSpeed(bandwidth=20e9, arithmetic=1e12),
    },
    layer_seconds=0.0,
)
_LINK = LinkSpeed(seconds=1e-3, bandwidth=1e9, read_seconds=1e-4, write_seconds=5e-5, layer_seconds=0.0)
_MEASURED = (MeasuredSpeed(_SPEED, None), MeasuredSpeed(_SPEED, _LINK))
_LAYER = Layer(
    attention=Part(bytes=2_000_000, weights=1),
    feed_forward=Part(bytes=2_000_000, weights=1),
    experts=Part(bytes=8_000_000, weights=1),
)
_PARTS = ModelParts(
    embedding=Part(bytes=0, weights=0),
    output=Part(bytes=0, weights=0),
    layers=(_LAYER, _LAYER),
    width=0,
    vocabulary=0,
    experts=4,
    experts_used=1,
)
_WORK = Work(cells=1, depth=0)


def _devices(*bandwidths: float) -> list[Device]:
    return [
        Device(
            name=str(number),
            free=1 << 40,
            bandwidth=each,
            arithmetic=1e18,
            link_seconds=1e-3 if number else 0.0,
            read_seconds=1e-4 if number else 0.0,
            write_seconds=5e-5 if number else 0.0,
        )
        for number, each in enumerate(bandwidths)
    ]


def _placement(homes: tuple[int, ...], experts: int) -> Placement:
    return Placement(homes=homes, feeds=(experts,) * len(homes), output=homes[-1])


def test_each_device_has_the_speed_of_its_own_formats() -> None:
    weights = [DeviceWeights({"Q4_0": Weights(1000, 2000)}, {}), DeviceWeights({"Q8_0": Weights(1000, 1000)}, {})]
    here, there = devices_of(_devices(1.0, 1.0), _MEASURED, weights)
    assert (here.bandwidth, there.bandwidth) == pytest.approx((40e9, 20e9))
    assert (here.link_seconds, there.link_seconds) == (0.0, 1e-3)
    assert (there.read_seconds, there.write_seconds) == (1e-4, 5e-5)


def test_a_device_without_tensors_may_get_any() -> None:
    all_here = DeviceWeights({"Q4_0": Weights(1000, 1), "Q8_0": Weights(1000, 1)}, {})
    _, there = devices_of(_devices(1.0, 1.0), _MEASURED, [all_here, DeviceWeights({}, {})])
    assert there.bandwidth == pytest.approx(2000 / (1000 / 40e9 + 1000 / 20e9))


def test_routed_experts_have_a_speed_of_their_own() -> None:
    speed = replace(_SPEED, experts={"Q4_0": ProductSpeed(bandwidth=30e9, arithmetic=5e11)})
    weights = DeviceWeights({"Q8_0": Weights(1000, 1000)}, {"Q4_0": Weights(1000, 2000)})
    (device,) = devices_of(_devices(1.0), [MeasuredSpeed(speed, None)], [weights])
    assert (device.bandwidth, device.expert_bandwidth) == pytest.approx((20e9, 30e9))
    assert (device.arithmetic, device.expert_arithmetic) == pytest.approx((1e12, 5e11))
    plain = predict(_PARTS, [replace(device, expert_bandwidth=0.0)], _placement((0, 0), 0), _WORK)
    apart = predict(_PARTS, [device], _placement((0, 0), 0), _WORK)
    assert plain.decode - apart.decode == pytest.approx(2 * 2_000_000 * (1 / 20e9 - 1 / 30e9))


def test_a_layer_over_a_link_costs_what_its_description_takes() -> None:
    speed, link = replace(_SPEED, layer_seconds=2e-5), replace(_LINK, layer_seconds=7e-5)
    (_, there) = devices_of(
        _devices(1.0, 1.0),
        [MeasuredSpeed(speed, None), MeasuredSpeed(speed, link)],
        [DeviceWeights({"Q4_0": Weights(1000, 1)}, {})] * 2,
    )
    assert (there.layer_seconds, there.submit_seconds) == pytest.approx((2e-5, 5e-5))


def test_one_device_reads_a_quarter_of_the_experts() -> None:
    found = predict(_PARTS, _devices(12e9), _placement((0, 0), 0), _WORK)
    assert found.decode == pytest.approx(2 * (4_000_000 + 2_000_000) / 12e9)


def test_experts_elsewhere_cost_two_ways_and_tensors_in_each_layer() -> None:
    devices = _devices(1e9, 4e9)
    apart = predict(_PARTS, devices, _placement((1, 1), 0), _WORK)
    reading = 2 * (4_000_000 / 4e9 + 2_000_000 / 1e9)
    # To the device, two ways for each layer's experts, the logits' way; inputs of the pass, two tensors a layer.
    assert apart.decode == pytest.approx(reading + (1 + 2 * 2 + 1) * 1e-3 + 5 * 5e-5 + 2 * 2 * 1e-4)


def test_matrices_are_counted_where_they_are() -> None:
    tensors = [
        Tensor("token_embd.weight", 2, (64, 10)),
        Tensor("output.weight", 8, (64, 10)),
        Tensor("blk.0.attn_q.weight", 2, (64, 64)),
        Tensor("blk.0.attn_norm.weight", 0, (64,)),
    ]
    here, there = weights_by_device(tensors, {"blk.0.attn_q.weight": 1, "output.weight": 1}, 2)
    assert here == DeviceWeights({}, {})
    assert there == DeviceWeights({"Q8_0": Weights(680, 640), "Q4_0": Weights(2304, 4096)}, {})


def test_routed_experts_are_counted_apart() -> None:
    tensors = [Tensor("blk.0.ffn_up_exps.weight", 2, (64, 64, 4)), Tensor("blk.0.ffn_up_shexp.weight", 2, (64, 64))]
    (found,) = weights_by_device(tensors, {}, 1)
    assert found == DeviceWeights({"Q4_0": Weights(2304, 4096)}, {"Q4_0": Weights(4 * 2304, 4 * 4096)})
