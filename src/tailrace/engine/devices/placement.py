"""Places a model on devices: the planner's placement, with the user's rules, as devices of tensors.

It asks no device. Device 0 is this machine's CPU, the others follow in the order of the setting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from tailrace.engine.devices.rule_demands import rule_demands
from tailrace.engine.devices.rules import PlacementRules
from tailrace.engine.devices.tensor_homes import tensor_devices
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CostModel, Prediction
from tailrace.machine.placement.demands import Demands
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.placement.search import Choice, best_placement
from tailrace.machine.plan_wording import memory_size
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_header import ModelFacts, ModelHeader
from tailrace.serving.placement_parts import OUTPUT, kind_of, layer_count, layer_of, placement_parts, tensor_bytes

#: Part of a device's planned memory that the next smaller placement doesn't use.
_STEP = 1 / 8
#: More memory than there is: of a CPU that reads weights from the mapped file where its memory is short.
_UNLIMITED = 1 << 60
#: Tokens of a KV cache where neither the settings nor the file say how many.
_DEFAULT_CONTEXT = 4096
#: Tokens that llama.cpp computes in one graph, at most.
_MAX_PASS = 512
#: Tokens behind which a decoded token is predicted.
_DEPTH = 2048


class PlannedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model's placement, and what it was decided from."""

    devices: tuple[Device, ...]
    parts: ModelParts
    work: Work
    demands: Demands
    placement: Placement
    prediction: Prediction
    sizes: Mapping[str, int]  #: bytes by tensor
    tensors: Mapping[str, int]  #: devices by tensor
    pinned: Mapping[str, int]  #: those of them that rules have put there
    missing: int = 0  #: bytes that the CPU's memory lacks: it reads so many from the mapped file, again and again

    @property
    def is_tied(self) -> bool:
        """Whether the embedding is the output matrix, too."""
        return OUTPUT not in self.sizes

    @property
    def used(self) -> list[int]:
        """The devices beside the CPU that have a part of the model, in the order of their layers."""
        homes = dict.fromkeys(home for home in self.placement.homes if home != CPU)
        return list(homes | dict.fromkeys(each for each in self.tensors.values() if each != CPU))

    def weights_and_cache(self) -> list[tuple[int, int]]:
        """Bytes of weights and of KV cache by device."""
        costs = CostModel(self.parts, self.devices, self.work, kv_is_local=self.placement.kv_is_local)
        weights, caches = [0] * len(self.devices), [0] * len(self.devices)
        for name, device in self.tensors.items():
            weights[device] += self.sizes[name]
        for layer, home in zip(self.parts.layers, self.placement.homes, strict=True):
            caches[CPU if self.placement.kv_is_local else home] += costs.kv_bytes(layer)
        return list(zip(weights, caches, strict=True))

    def feed_devices(self) -> tuple[int, ...]:
        """The device of each layer's feed, also where rules have put it there."""
        found, kind = list(self.placement.feeds), "experts" if self.parts.has_experts else "feed forward"
        for name, device in self.pinned.items():
            layer = layer_of(name)
            if layer is not None and kind_of(name) == kind and layer < len(found):
                found[layer] = device
        return tuple(found)

    def shares(self) -> dict[str, str]:
        """What each device has, by its name."""
        return {device.name: self._share(number) for number, device in enumerate(self.devices)}

    def _share(self, number: int) -> str:
        layers, feeds = self.placement.layers_on(number), self.placement.feeds_on(number)
        if layers == feeds:
            return f"{layers} layers"
        return f"{layers} layers and {'experts' if self.parts.has_experts else 'feed-forward parts'} of {feeds}"

    def smaller(self, refused: Collection[int]) -> PlannedModel | None:
        """The best placement that takes less of the devices that have ``refused`` memory. None: there is none."""
        if not set(refused) & set(self.used):
            return None
        taken = self.prediction.memory
        devices = [
            msgspec.structs.replace(device, free=int(taken[number] * (1 - _STEP)) if number in refused else device.free)
            for number, device in enumerate(self.devices)
        ]
        try:
            choice, missing = _choose(self.parts, devices, self.work, self.demands)
        except ConfigurationError:
            return None
        return self._with(devices, choice, missing)

    def _with(self, devices: Sequence[Device], choice: Choice, missing: int) -> PlannedModel:
        tensors = tensor_devices(
            self.sizes, choice.placement, self.pinned, is_tied=self.is_tied, has_experts=self.parts.has_experts
        )
        return msgspec.structs.replace(
            self,
            devices=tuple(devices),
            placement=choice.placement,
            prediction=choice.prediction,
            tensors=tensors,
            missing=missing,
        )


def work_of(facts: ModelFacts, context: int, *, parallel: int, batch: int) -> Work:
    """What a model is to do. ``context``: tokens of the KV cache; 0: those that it was trained for."""
    cells = context or facts.context or _DEFAULT_CONTEXT
    return Work(cells=cells, sequences=parallel, depth=min(_DEPTH, cells // 2), pass_tokens=min(_MAX_PASS, batch))


def place(
    header: ModelHeader,
    devices: Sequence[Device],
    rules: PlacementRules,
    work: Work,
    *,
    cache_types: CacheTypes,
    local: bool,
    gpu_layers: int,
) -> PlannedModel:
    """The placement on ``devices``. ``local`` and ``gpu_layers`` are ``rule_demands``'s.

    Raises ConfigurationError for a rule that can't be followed, with the sizes where memory is short, and ModelError
    for a header that no placement can be made for.
    """
    sizes = {tensor.name: tensor_bytes(tensor) for tensor in header.tensors}
    names = [device.name for device in devices]
    ruled = rule_demands(rules, names, list(sizes), layer_count(header), local=local, gpu_layers=gpu_layers)
    parts = placement_parts(header, cache_types, ruled.pinned)
    choice, missing = _choose(parts, devices, work, ruled.demands)
    empty = PlannedModel(
        devices=tuple(devices),
        parts=parts,
        work=work,
        demands=ruled.demands,
        placement=choice.placement,
        prediction=choice.prediction,
        sizes=sizes,
        tensors={},
        pinned=ruled.pinned,
    )
    return empty._with(devices, choice, missing)


def _choose(parts: ModelParts, devices: Sequence[Device], work: Work, demands: Demands) -> tuple[Choice, int]:
    """The best placement, and the bytes that the CPU lacks for it.

    A CPU without the memory maps the file, and where --gpu-layers wants more than devices have, they get fewer.
    """
    mapped = [msgspec.structs.replace(devices[CPU], free=_UNLIMITED), *devices[1:]]
    wanted = demands.device_layers
    for layers in [None] if wanted is None else range(wanted, -1, -1):
        asked = msgspec.structs.replace(demands, device_layers=layers)
        for machine in (devices, mapped):
            try:
                choice = best_placement(parts, machine, work, asked)
            except ConfigurationError:
                continue
            return choice, max(0, choice.prediction.memory[CPU] - devices[CPU].free)
    raise ConfigurationError(_refusal(parts, devices, work, demands))


def _refusal(parts: ModelParts, devices: Sequence[Device], work: Work, demands: Demands) -> str:
    """Which device can't have what rules put there."""
    costs = CostModel(parts, devices, work, kv_is_local=demands.kv_is_local)
    weights, caches = costs.pinned_bytes(), [0] * len(devices)
    for number, device in demands.homes.items():
        layer = parts.layers[number]
        weights[device] += layer.attention.bytes + layer.feed_forward.bytes + layer.experts.bytes
        caches[CPU if demands.kv_is_local else device] += costs.kv_bytes(layer)
    for number in range(1, len(devices)):
        free = devices[number].free
        if weights[number] + caches[number] + costs.buffer_bytes > free:
            return (
                f"placement puts {memory_size(weights[number])} of weights and {memory_size(caches[number])} of KV "
                f"cache on {devices[number].name}, beside {memory_size(costs.buffer_bytes)} of buffers, and it has "
                f"{memory_size(free)} free for them: put fewer layers or tensors there, or serve with a smaller --ctx"
            )
    return "placement: the rules leave no placement that the devices have memory for: name fewer layers and tensors"
