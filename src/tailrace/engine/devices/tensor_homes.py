"""The device of each tensor, by its name and the placement of the model's parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tailrace.machine.placement.division import CPU, Placement
from tailrace.serving.placement_parts import EMBEDDING, kind_of, layer_of


def home_of(name: str, homes: Sequence[int], output: int, *, is_tied: bool) -> int:
    """Where a tensor is if nothing puts it elsewhere: at its layer's home, with the ``output``, or on the CPU.

    ``is_tied``: the embedding is the output matrix, too.
    """
    layer = layer_of(name)
    if layer is not None:
        return homes[layer] if layer < len(homes) else CPU
    is_output = kind_of(name) == "output" or (is_tied and name == EMBEDDING)
    return output if is_output else CPU


def tensor_devices(
    names: Iterable[str], placement: Placement, pinned: Mapping[str, int], *, is_tied: bool, has_experts: bool
) -> dict[str, int]:
    """The device of each tensor. ``pinned``: those that rules put somewhere."""
    feed = "experts" if has_experts else "feed forward"
    found = {}
    for name in names:
        layer = layer_of(name)
        if name in pinned:
            found[name] = pinned[name]
        elif layer is not None and layer < len(placement.feeds) and kind_of(name) == feed:
            found[name] = placement.feeds[layer]
        else:
            found[name] = home_of(name, placement.homes, placement.output, is_tied=is_tied)
    return found
