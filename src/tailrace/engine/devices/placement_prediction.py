"""Predicts the speed of a placement from what was measured of its devices and of the links to them.

Pure. The model of time is ``machine.placement.cost``; this module gives it the placement's numbers. A device's
bandwidth is that of the formats of the tensors which are on it, because formats differ by a factor of three.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
from gguf.constants import GGMLQuantizationType

from tailrace.device_speed import DeviceSpeed, LinkSpeed, Weights
from tailrace.engine.devices.placement import EMBEDDING, Placement, Space
from tailrace.engine.devices.speed_watch import PredictedSeconds
from tailrace.machine.placement.cost import CostModel
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import Placement as Division
from tailrace.machine.placement.parts import ModelParts
from tailrace.models.gguf_file import Tensor

#: What the model of time lets be elsewhere than the layer: routed experts; in a dense model its feed-forward part.
_EXPERTS = re.compile(r"blk\.(\d+)\.ffn_\w+_exps\.")
_FEED_FORWARD = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down)\.")


class MeasuredSpeed(msgspec.Struct, frozen=True):
    """What was measured of one device. The first device has no link."""

    device: DeviceSpeed
    link: LinkSpeed | None


def predict(parts: ModelParts, devices: Sequence[Device], placement: Placement, work: Work) -> PredictedSeconds:
    """The seconds of a token, with ``placement`` on ``devices``."""
    division = Division(
        homes=placement.homes,
        feeds=feeds_of(placement, has_experts=parts.has_experts),
        output=placement.output,
        kv_is_local=placement.kv_is_local,
    )
    found = CostModel(parts, devices, work, kv_is_local=placement.kv_is_local).predict(division)
    return PredictedSeconds(found.decode_seconds, found.prompt_seconds)


def feeds_of(placement: Placement, *, has_experts: bool) -> tuple[int, ...]:
    """The device of each layer's routed experts; in a dense model, of its feed-forward part."""
    feeds, pattern = list(placement.homes), _EXPERTS if has_experts else _FEED_FORWARD
    for name, device in placement.tensors.items():
        if (matched := pattern.match(name)) and int(matched[1]) < len(feeds):
            feeds[int(matched[1])] = device
    return tuple(feeds)


def devices_of(
    spaces: Sequence[Space], measured: Sequence[MeasuredSpeed], weights: Sequence[Mapping[str, Weights]]
) -> tuple[Device, ...]:
    """The devices with their speeds for ``weights``: those on each device, by format. One without any may get all."""
    everything: dict[str, Weights] = defaultdict(lambda: Weights(0, 0))
    for each in weights:
        for name, found in each.items():
            known = everything[name]
            everything[name] = Weights(known.bytes + found.bytes, known.numbers + found.numbers)
    return tuple(
        _device(space, speed, here or everything) for space, speed, here in zip(spaces, measured, weights, strict=True)
    )


def _device(space: Space, measured: MeasuredSpeed, weights: Mapping[str, Weights]) -> Device:
    products, link = measured.device.of(weights), measured.link
    if link is None:
        return Device(
            name=space.name,
            free=space.free,
            bandwidth=products.bandwidth,
            arithmetic=products.arithmetic,
            layer_seconds=measured.device.layer_seconds,
        )
    return Device(
        name=space.name,
        free=space.free,
        bandwidth=products.bandwidth,
        arithmetic=products.arithmetic,
        layer_seconds=max(measured.device.layer_seconds, link.layer_seconds),
        link_bandwidth=link.bandwidth,
        link_seconds=link.seconds,
        tensor_seconds=link.tensor_seconds,
    )


def weights_by_device(
    tensors: Sequence[Tensor], sizes: Mapping[str, int], placement: Placement, count: int
) -> list[dict[str, Weights]]:
    """The matrices on each of ``count`` devices, by format. An embedding that is only read by row isn't among them."""
    found: list[dict[str, Weights]] = [{} for _ in range(count)]
    is_output = "output.weight" not in sizes
    for tensor in tensors:
        if len(tensor.dimensions) < 2 or (tensor.name == EMBEDDING and not is_output):
            continue
        name = GGMLQuantizationType(tensor.ggml_type).name
        here = found[placement.tensors.get(tensor.name, 0)]
        known = here.get(name, Weights(0, 0))
        here[name] = Weights(known.bytes + sizes[tensor.name], known.numbers + tensor.elements)
    return found
