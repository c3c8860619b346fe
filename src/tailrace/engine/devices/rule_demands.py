"""What rules and flags demand of a placement, with devices as numbers. What they don't name is left to the planner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.engine.devices.name_patterns import search_names
from tailrace.engine.devices.rules import PlacementRules, layers_of
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.demands import Demands
from tailrace.machine.placement.division import CPU
from tailrace.serving.device_list import LOCAL
from tailrace.serving.placement_parts import EMBEDDING, OUTPUT


class RuleDemands(msgspec.Struct, frozen=True, kw_only=True):
    """Rules with devices as numbers."""

    demands: Demands
    pinned: Mapping[str, int]  #: devices by tensor; without the output matrix


def rule_demands(
    rules: PlacementRules,
    names: Sequence[str],
    tensors: Sequence[str],
    layers: int,
    *,
    local: bool,
    gpu_layers: int,
) -> RuleDemands:
    """The demands of ``rules`` on a model with these ``tensors``. ``names``: of the devices, the CPU's first.

    ``local``: the CPU takes its part of the layers. ``gpu_layers``: so many layers, the last ones, are on devices; -1:
    the planner decides. Raises ConfigurationError for a rule that can't be followed.
    """

    def number_of(name: str, rule: str) -> int:
        if name not in names:
            raise ConfigurationError(f"placement: {rule} is to be on {name}, and there are {', '.join(names)}")
        return names.index(name)

    if rules.kv not in (None, LOCAL):
        raise ConfigurationError("placement: kv can only be local. A layer's KV cache is otherwise where the layer is")
    homes: dict[int, int] = {}
    for text, name in rules.layers.items():
        device = number_of(name, f"layers {text}")
        for layer in layers_of(text):
            if layer >= layers:
                raise ConfigurationError(f"placement: layers {text} aren't all there, the model has 0-{layers - 1}")
            if homes.setdefault(layer, device) != device:
                raise ConfigurationError(
                    f"placement: layers {text} are to be on {name}, and layer {layer} on {names[homes[layer]]}, too"
                )
    pinned = _pinned({pattern: number_of(name, repr(pattern)) for pattern, name in rules.tensors.items()}, tensors)
    is_tied = OUTPUT not in tensors
    output = pinned.pop(EMBEDDING if is_tied else OUTPUT, None)
    if rules.output is not None:
        output = number_of(rules.output, "the output")
    if is_tied and output not in (None, CPU):
        # Without an output matrix of its own, the model's output is its embedding, which llama.cpp loads once more
        # where the last layer is.
        last = homes.setdefault(layers - 1, output)
        if last != output:
            raise ConfigurationError(
                "placement: the output of this model is its embedding, which can only be on "
                f"{' or '.join(dict.fromkeys((names[CPU], names[last])))}, where its last layer is"
            )
    demands = Demands(
        homes=homes,
        order=_order(homes, names),
        output=output,
        kv_is_local=rules.kv == LOCAL,
        local=local,
        device_layers=min(gpu_layers, layers) if gpu_layers >= 0 and not rules.layers else None,
    )
    return RuleDemands(demands=demands, pinned=pinned)


def _pinned(devices: Mapping[str, int], tensors: Sequence[str]) -> dict[str, int]:
    """The devices of the tensors that patterns name: the first that matches decides."""
    found = search_names(list(devices), tensors)
    pinned: dict[str, int] = {}
    for (pattern, device), names in zip(devices.items(), found, strict=True):
        if not names - pinned.keys():
            raise ConfigurationError(
                f"placement: no tensor of this model has {pattern!r} in its name, or earlier patterns match all that do"
            )
        pinned |= dict.fromkeys(names - pinned.keys(), device)
    return pinned


def _order(homes: Mapping[int, int], names: Sequence[str]) -> tuple[int, ...]:
    """The devices beside the CPU in the order of their layers: those that rules name change places among themselves."""
    blocks: list[int] = []
    for layer in sorted(homes):
        if not blocks or blocks[-1] != homes[layer]:
            blocks.append(homes[layer])
    if len(set(blocks)) < len(blocks) or CPU in blocks[1:]:
        raise ConfigurationError(
            f"placement: the layers are on {', '.join(names[block] for block in blocks)}, in this order. "
            f"llama.cpp keeps the layers of a device together, and those on {LOCAL} come first. Single tensors may be "
            "elsewhere: name them under tensors"
        )
    named = iter([block for block in blocks if block != CPU])
    return tuple(next(named) if device in blocks else device for device in range(1, len(names)))
