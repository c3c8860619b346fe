"""Predicts the speed of a placement from what was measured of its devices and of the links to them.

Pure. The model of time is ``machine.placement.cost``; this module gives it the placement's numbers. A device's
bandwidth is that of the formats of the tensors which are on it, because formats differ by a factor of three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
from gguf.constants import GGMLQuantizationType

from tailrace.engine.devices.speed_watch import PredictedSeconds
from tailrace.machine.placement.cost import CostModel
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import ModelParts
from tailrace.models.gguf_file import Tensor
from tailrace.serving.placement_parts import EMBEDDING, OUTPUT, tensor_bytes
from tailrace.worker_protocol.device_speed import DeviceSpeed, LinkSpeed, Weights


class MeasuredSpeed(msgspec.Struct, frozen=True):
    """What was measured of one device. The first device has no link."""

    device: DeviceSpeed
    link: LinkSpeed | None


def predict(parts: ModelParts, devices: Sequence[Device], placement: Placement, work: Work) -> PredictedSeconds:
    """The seconds of a token, with ``placement`` on ``devices``."""
    found = CostModel(parts, devices, work, kv_is_local=placement.kv_is_local).predict(placement)
    return PredictedSeconds(found.decode_seconds, found.prompt_seconds)


def devices_of(
    devices: Sequence[Device], measured: Sequence[MeasuredSpeed], weights: Sequence[Mapping[str, Weights]]
) -> tuple[Device, ...]:
    """The devices with their speeds for ``weights``: those on each device, by format. One without any may get all."""
    everything: dict[str, Weights] = defaultdict(lambda: Weights(0, 0))
    for each in weights:
        for name, found in each.items():
            known = everything[name]
            everything[name] = Weights(known.bytes + found.bytes, known.numbers + found.numbers)
    return tuple(
        _device(device, speed, here or everything)
        for device, speed, here in zip(devices, measured, weights, strict=True)
    )


def _device(device: Device, measured: MeasuredSpeed, weights: Mapping[str, Weights]) -> Device:
    products, link = measured.device.of(weights), measured.link
    found = msgspec.structs.replace(
        device,
        bandwidth=products.bandwidth,
        arithmetic=products.arithmetic,
        layer_seconds=measured.device.layer_seconds,
        assumed=(),
    )
    if link is None:
        return found
    return msgspec.structs.replace(
        found,
        layer_seconds=max(found.layer_seconds, link.layer_seconds),
        link_bandwidth=link.bandwidth,
        link_seconds=link.seconds,
        tensor_seconds=link.tensor_seconds,
    )


def weights_by_device(tensors: Sequence[Tensor], devices: Mapping[str, int], count: int) -> list[dict[str, Weights]]:
    """The matrices on each of ``count`` devices, by format. An embedding that is only read by row isn't among them.

    ``devices``: by the tensors' names; the CPU has those that aren't there.
    """
    found: list[dict[str, Weights]] = [{} for _ in range(count)]
    is_output = OUTPUT not in {tensor.name for tensor in tensors}
    for tensor in tensors:
        if len(tensor.dimensions) < 2 or (tensor.name == EMBEDDING and not is_output):
            continue
        name = GGMLQuantizationType(tensor.ggml_type).name
        here = found[devices.get(tensor.name, CPU)]
        known = here.get(name, Weights(0, 0))
        here[name] = Weights(known.bytes + tensor_bytes(tensor), known.numbers + tensor.elements)
    return found
