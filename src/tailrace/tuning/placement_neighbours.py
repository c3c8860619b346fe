"""The placements next to a plan's, as rules that ``tailrace serve`` takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

#: Tensors of a layer that may be elsewhere than the layer: routed experts; of a dense model its feed-forward part.
_EXPERTS, _FEED_FORWARD = r"ffn_\w+_exps\.", r"ffn_(gate|up|down)\."
#: Index of this machine's CPU among the devices.
_CPU = 0

#: Rules as a table of the settings file has them.
Rules = dict[str, object]


class PlacedParts(msgspec.Struct, frozen=True):
    """A loaded model's placement: devices by their number in ``names``, of which the first is this machine's CPU."""

    names: tuple[str, ...]
    homes: tuple[int, ...]  #: by layer
    feeds: tuple[int, ...]  #: by layer: of its experts; in a dense model of its feed-forward part
    output: int
    has_experts: bool

    @property
    def rules(self) -> Rules:
        """Rules for exactly this placement."""
        layers = {_range(first, last): self.names[device] for device, first, last in _blocks(self.homes)}
        found: Rules = {"layers": layers, "output": self.names[self.output]}
        part = _EXPERTS if self.has_experts else _FEED_FORWARD
        elsewhere: dict[int, list[int]] = {}
        for layer, (home, feed) in enumerate(zip(self.homes, self.feeds, strict=True)):
            if feed != home:
                elsewhere.setdefault(feed, []).append(layer)
        if elsewhere:
            found["tensors"] = {
                rf"^blk\.({'|'.join(map(str, chosen))})\.{part}": self.names[device]
                for device, chosen in elsewhere.items()
            }
        return found

    @property
    def label(self) -> str:
        """It in words: layers by device, and what is apart from them."""
        words = [f"{self.names[device]} {last - first + 1}" for device, first, last in _blocks(self.homes)]
        part = "experts" if self.has_experts else "feed-forward"
        apart = [
            f"{part} of {count} on {name}"
            for device, name in enumerate(self.names)
            if (count := sum(feed == device != home for home, feed in zip(self.homes, self.feeds, strict=True)))
        ]
        if self.output != self.homes[-1]:
            apart.append(f"output on {self.names[self.output]}")
        return ", ".join([f"layers {' + '.join(words)}", *apart])


def neighbours(plan: PlacedParts) -> list[PlacedParts]:
    """Placements that differ from ``plan`` in one thing, each once: a layer's home, experts, or the output.

    Whether a device has the memory for one isn't known here.
    """
    found = [*_moved_layers(plan), *_moved_experts(plan), *_moved_outputs(plan)]
    return [each for each in dict.fromkeys(found) if each != plan]


def _moved_layers(plan: PlacedParts) -> Iterator[PlacedParts]:
    """The layer at each side of each boundary between devices, on the boundary's other side; a device that has none
    gets one from its neighbours.
    """
    order = [device for device, _, _ in _blocks(plan.homes)]
    for device in range(len(plan.names)):
        if device not in order:
            order.insert(0, device) if device == _CPU else order.append(device)
    counts = [plan.homes.count(device) for device in order]
    for first, second in pairwise(range(len(order))):
        for source, target in ((first, second), (second, first)):
            if counts[source]:
                moved = list(counts)
                moved[source] -= 1
                moved[target] += 1
                homes = tuple(device for device, count in zip(order, moved, strict=True) for _ in range(count))
                # What was at home goes along.
                feeds = tuple(
                    new if feed == old else feed for new, old, feed in zip(homes, plan.homes, plan.feeds, strict=True)
                )
                output = homes[-1] if plan.output == plan.homes[-1] else plan.output
                yield msgspec.structs.replace(plan, homes=homes, feeds=feeds, output=output)


def _moved_experts(plan: PlacedParts) -> Iterator[PlacedParts]:
    if plan.has_experts:
        yield msgspec.structs.replace(plan, feeds=plan.homes)
        for device in range(len(plan.names)):
            yield msgspec.structs.replace(plan, feeds=(device,) * len(plan.homes))


def _moved_outputs(plan: PlacedParts) -> Iterator[PlacedParts]:
    for output in {_CPU, plan.homes[-1]}:
        yield msgspec.structs.replace(plan, output=output)


def _blocks(homes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Device, first and last layer of each run of layers at one home."""
    blocks: list[tuple[int, int, int]] = []
    for layer, home in enumerate(homes):
        if blocks and blocks[-1][0] == home:
            blocks[-1] = (home, blocks[-1][1], layer)
        else:
            blocks.append((home, layer, layer))
    return blocks


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
