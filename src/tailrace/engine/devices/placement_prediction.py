"""Predicts the speed of a placement from what was measured of its devices and of the links to them.

Pure. The model of time is ``machine.placement.cost``; this module gives it the placement's numbers. A device's
bandwidth is that of the formats of the tensors which are on it, because formats differ by a factor of three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from gguf.constants import GGMLQuantizationType

from tailrace.engine.devices.speed_watch import PredictedSeconds
from tailrace.machine.placement.cost import CostModel
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import ModelParts
from tailrace.models.gguf_file import Tensor
from tailrace.serving.placement_parts import EMBEDDING, OUTPUT, kind_of, tensor_bytes
from tailrace.worker_protocol.device_speed import DeviceSpeed, LinkSpeed, Weights

#: Matrices by ggml's name of their format.
Formats = dict[str, Weights]


class DeviceWeights(NamedTuple):
    """The matrices on one device."""

    others: Formats  #: beside routed experts
    experts: Formats


class MeasuredSpeed(msgspec.Struct, frozen=True):
    """What was measured of one device. The first device has no link."""

    device: DeviceSpeed
    link: LinkSpeed | None


def predict(parts: ModelParts, devices: Sequence[Device], placement: Placement, work: Work) -> PredictedSeconds:
    """The seconds of a token, with ``placement`` on ``devices``."""
    found = CostModel(parts, devices, work, kv_is_local=placement.kv_is_local).predict(placement)
    return PredictedSeconds(found.decode_seconds, found.prompt_seconds)


def devices_of(
    devices: Sequence[Device], measured: Sequence[MeasuredSpeed], weights: Sequence[DeviceWeights]
) -> tuple[Device, ...]:
    """The devices with their speeds for ``weights``: those on each device. One without any may get all."""
    every = _together([each.others for each in weights])
    every_expert = _together([each.experts for each in weights])
    return tuple(
        _device(device, speed, DeviceWeights(here.others or every, here.experts or every_expert))
        for device, speed, here in zip(devices, measured, weights, strict=True)
    )


def _together(weights: Sequence[Formats]) -> Formats:
    found: dict[str, Weights] = defaultdict(lambda: Weights(0, 0))
    for each in weights:
        for name, here in each.items():
            known = found[name]
            found[name] = Weights(known.bytes + here.bytes, known.numbers + here.numbers)
    return found


def measured_numbers(speed: DeviceSpeed, weights: DeviceWeights) -> dict[str, float]:
    """Fields of a Device with ``weights``; without any, nothing is known."""
    routed = weights.experts
    others = weights.others or routed
    if not others:
        return {}
    products = speed.of(others)
    experts = speed.of_experts(routed) if routed else products
    return {
        "bandwidth": products.bandwidth,
        "arithmetic": products.arithmetic,
        "expert_bandwidth": experts.bandwidth,
        "expert_arithmetic": experts.arithmetic,
        "layer_seconds": speed.layer_seconds,
    }


def _device(device: Device, measured: MeasuredSpeed, weights: DeviceWeights) -> Device:
    link = measured.link
    found = msgspec.structs.replace(device, **measured_numbers(measured.device, weights), assumed=())
    if link is None:
        return found
    return msgspec.structs.replace(
        found,
        submit_seconds=max(0.0, link.layer_seconds - found.layer_seconds),
        link_bandwidth=link.bandwidth,
        link_seconds=link.seconds,
        read_seconds=link.read_seconds,
        write_seconds=link.write_seconds,
    )


def weights_by_device(tensors: Sequence[Tensor], devices: Mapping[str, int], count: int) -> list[DeviceWeights]:
    """The matrices on each of ``count`` devices. An embedding that is only read by row isn't among them.

    ``devices``: by the tensors' names; the CPU has those that aren't there.
    """
    found = [DeviceWeights({}, {}) for _ in range(count)]
    is_output = OUTPUT not in {tensor.name for tensor in tensors}
    for tensor in tensors:
        if len(tensor.dimensions) < 2 or (tensor.name == EMBEDDING and not is_output):
            continue
        name = GGMLQuantizationType(tensor.ggml_type).name
        weights = found[devices.get(tensor.name, CPU)]
        here = weights.experts if kind_of(tensor.name) == "experts" else weights.others
        known = here.get(name, Weights(0, 0))
        here[name] = Weights(known.bytes + tensor_bytes(tensor), known.numbers + tensor.elements)
    return found
