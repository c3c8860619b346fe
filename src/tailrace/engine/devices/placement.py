"""Decides the device of each tensor of a model, from the tensors' sizes, the devices' free memory and the user's rules.

Pure. Devices are numbered: 0 is this machine's CPU, the others follow in the order of the setting. llama.cpp keeps a
device's layers together, in this order, and a layer's KV cache where the layer is. A single tensor may be elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tailrace.engine.devices.device_list import LOCAL
from tailrace.engine.devices.name_patterns import search_names
from tailrace.engine.devices.rules import PlacementRules, layers_of
from tailrace.errors import ConfigurationError
from tailrace.machine.plan_wording import memory_size

#: This machine's CPU.
CPU = 0
#: Part of a device's free memory that is planned with: buffers and other processes need some.
_USABLE_PART = 0.9
_LAYER = re.compile(r"blk\.(\d+)\.")
_OUTPUT = ("output.weight", "output_norm.weight", "output_norm.bias")
#: Of a model without an output matrix of its own.
EMBEDDING = "token_embd.weight"


class Space(msgspec.Struct, frozen=True):
    """A device, as far as a placement needs to know it."""

    name: str  #: as rules name it
    free: int  #: bytes


class ModelSizes(msgspec.Struct, frozen=True):
    """What is placed."""

    tensors: Mapping[str, int]  #: bytes by name
    layers: int
    kv_bytes: int  #: of a layer, for one context


class Placement(msgspec.Struct, frozen=True):
    """The device of each part. A layer's home computes its attention and has its KV cache."""

    homes: tuple[int, ...]  #: by layer, ascending from the CPU's to the last device's
    tensors: Mapping[str, int]  #: by name
    output: int
    kv_is_local: bool  #: the KV cache isn't at home, but on the CPU
    is_fixed: bool  #: rules have decided: it isn't changed where a device has less memory than it told

    @property
    def attends_on_cpu(self) -> bool:
        """Whether all of the KV cache is on the CPU."""
        return self.kv_is_local or not any(self.homes)

    def layers_on(self, device: int) -> int:
        """How many layers are at home there."""
        return self.homes.count(device)


def place(
    model: ModelSizes, spaces: Sequence[Space], rules: PlacementRules, *, local: bool, gpu_layers: int
) -> Placement:
    """The placement on ``spaces``, of which the first is the CPU.

    ``local``: the CPU takes its part of the layers. ``gpu_layers``: so many layers, the last ones, are on devices; -1:
    by free memory. Raises ConfigurationError for a rule that can't be followed, with the sizes where memory is short.
    """
    names = {space.name: number for number, space in enumerate(spaces)}

    def number_of(name: str, rule: str) -> int:
        if name not in names:
            raise ConfigurationError(f"placement: {rule} is to be on {name}, and there are {', '.join(names)}")
        return names[name]

    if rules.kv not in (None, LOCAL):
        raise ConfigurationError("placement: kv can only be local. A layer's KV cache is otherwise where the layer is")
    if rules.layers:
        homes = _ruled_homes(model.layers, rules, number_of, spaces)
    else:
        homes = _divided(model, spaces, local=local, gpu_layers=gpu_layers)
    last = homes[-1] if homes else CPU
    output = last if rules.output is None else number_of(rules.output, "the output")
    tensors = {name: home_of(name, homes, output, model) for name in model.tensors}
    tensors |= _ruled_tensors(
        model, {pattern: number_of(name, repr(pattern)) for pattern, name in rules.tensors.items()}
    )
    if EMBEDDING in tensors and "output.weight" not in tensors and tensors[EMBEDDING] not in (CPU, last):
        raise ConfigurationError(
            f"placement: the output of this model is its embedding, which can only be on {LOCAL} or on "
            f"{spaces[last].name}, where its last layer is"
        )
    placement = Placement(homes, tensors, output, rules.kv == LOCAL, is_fixed=bool(rules.layers or rules.tensors))
    if placement.is_fixed:
        _check(model, spaces, placement)
    return placement


def smaller(placement: Placement, model: ModelSizes, devices: Sequence[int]) -> Placement | None:
    """The placement with fewer layers on ``devices``, which had less memory than was planned. The CPU gets them.

    None where rules have decided, or where these devices have no layers.
    """
    counts = {device: placement.layers_on(device) for device in devices if placement.layers_on(device)}
    if placement.is_fixed or not counts:
        return None
    moved = sum(max(1, count // 4) for count in counts.values())
    kept: list[int] = []
    for device in dict.fromkeys(home for home in placement.homes if home != CPU):
        count = placement.layers_on(device)
        kept += [device] * (count - max(1, count // 4) if device in counts else count)
    homes = (CPU,) * (placement.layers_on(CPU) + moved) + tuple(kept)
    follows = placement.output == placement.homes[-1]
    output = homes[-1] if follows else placement.output
    tensors = {name: home_of(name, homes, output, model) for name in placement.tensors}
    return msgspec.structs.replace(placement, homes=homes, tensors=tensors, output=output)


def bytes_by_device(model: ModelSizes, placement: Placement, count: int) -> list[tuple[int, int]]:
    """Weights and KV cache on each of ``count`` devices."""
    weights, caches = [0] * count, [0] * count
    for name, device in placement.tensors.items():
        weights[device] += model.tensors[name]
    for home in placement.homes:
        caches[CPU if placement.kv_is_local else home] += model.kv_bytes
    return list(zip(weights, caches, strict=True))


def home_of(name: str, homes: Sequence[int], output: int, model: ModelSizes) -> int:
    """Where a tensor is without a rule: its layer's home, the ``output``'s device, or the CPU."""
    if found := _LAYER.match(name):
        layer = int(found[1])
        return homes[layer] if layer < len(homes) else CPU
    tied = name == EMBEDDING and "output.weight" not in model.tensors
    return output if tied or name in _OUTPUT else CPU


def _ruled_tensors(model: ModelSizes, devices: Mapping[str, int]) -> dict[str, int]:
    """The devices of the tensors that patterns name: the first that matches decides."""
    found = search_names(list(devices), model.tensors)
    ruled: dict[str, int] = {}
    for (pattern, device), names in zip(devices.items(), found, strict=True):
        if not names - ruled.keys():
            raise ConfigurationError(
                f"placement: no tensor of this model has {pattern!r} in its name, or earlier patterns match all that do"
            )
        ruled |= dict.fromkeys(names - ruled.keys(), device)
    return ruled


def _ruled_homes(
    layers: int, rules: PlacementRules, number_of: Callable[[str, str], int], spaces: Sequence[Space]
) -> tuple[int, ...]:
    homes = [CPU] * layers
    for text, name in rules.layers.items():
        device = number_of(name, f"layers {text}")
        for layer in layers_of(text):
            if layer >= layers:
                raise ConfigurationError(f"placement: layers {text} aren't all there, the model has 0-{layers - 1}")
            homes[layer] = device
    blocks = [home for before, home in zip([None, *homes], homes, strict=False) if home != before]
    if len(set(blocks)) < len(blocks) or (CPU in blocks and blocks[0] != CPU):
        raise ConfigurationError(
            f"placement: the layers are on {', '.join(spaces[block].name for block in blocks)}, in this order. "
            f"llama.cpp keeps the layers of a device together, and those on {LOCAL} come first. Single tensors may be "
            "elsewhere: name them under tensors"
        )
    return tuple(homes)


def _divided(model: ModelSizes, spaces: Sequence[Space], *, local: bool, gpu_layers: int) -> tuple[int, ...]:
    """Blocks of layers by the devices' free memory."""
    sizes = [model.kv_bytes] * model.layers
    others = 0
    for name, size in model.tensors.items():
        found = _LAYER.match(name)
        if found and int(found[1]) < model.layers:
            sizes[int(found[1])] += size
        else:
            others += size
    free = [max(0.0, _USABLE_PART * space.free) for space in spaces]
    # The embedding stays here.
    free[CPU] = max(0.0, free[CPU] - others) if local and gpu_layers < 0 else 0.0
    wanted = model.layers if gpu_layers < 0 else min(gpu_layers, model.layers)
    for last in range(len(spaces) - 1, CPU, -1):
        # The device with the last layer gets the output, too.
        left = [*free[:last], max(0.0, free[last] - others)]
        homes = _blocks(sizes, left, model.layers - wanted)
        if homes and homes[-1] == last:
            return homes
    return (CPU,) * model.layers


def _blocks(sizes: Sequence[int], free: Sequence[float], first: int) -> tuple[int, ...]:
    """A home for each layer: those from ``first`` on are divided in the ratio of ``free``."""
    part = sum(sizes[first:]) / max(1.0, sum(free))
    homes: list[int] = []
    layer, due = first, 0.0
    for device, space in enumerate(free):
        due += part * space
        used = 0.0
        # A layer belongs to the device that has most of it; what is rounded up here is missing later.
        while layer < len(sizes) and due >= sizes[layer] / 2 and used + sizes[layer] <= space:
            homes.append(device)
            used += sizes[layer]
            due -= sizes[layer]
            layer += 1
    # What fits nowhere is the CPU's, whose layers come first.
    return (CPU,) * (len(sizes) - len(homes)) + tuple(homes)


def _check(model: ModelSizes, spaces: Sequence[Space], placement: Placement) -> None:
    """Raise ConfigurationError where rules put more on a device than is free there. The CPU's weights are mapped."""
    needed = bytes_by_device(model, placement, len(spaces))
    for number, (space, (weights, cache)) in enumerate(zip(spaces, needed, strict=True)):
        if number != CPU and weights + cache > space.free:
            raise ConfigurationError(
                f"placement puts {memory_size(weights)} of weights and {memory_size(cache)} of KV cache on "
                f"{space.name}, which has {memory_size(space.free)} free: put fewer layers or tensors there, or "
                "serve with a smaller --ctx"
            )
