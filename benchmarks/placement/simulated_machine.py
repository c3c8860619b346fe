"""A machine that executes a placement part by part, against a clock and each device's memory.

It shares no code with the planner's predictions: a pass is a list of operations and transfers, as llama.cpp makes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import Placement
from tailrace.machine.placement.parts import Layer, ModelParts

#: Bytes of an activation or logit.
_FLOAT = 4


class SimulatedMachine:
    """See the module."""

    def __init__(self, model: ModelParts, devices: Sequence[Device], work: Work) -> None:
        self.model = model
        self.devices = devices
        self.work = work

    def seconds(self, placement: Placement) -> float:
        """Of a decoded token, with the prompt tokens that come with it."""
        prompt = self.run(placement, self.work.pass_tokens) / self.work.pass_tokens
        return self.run(placement, 1) + self.work.prompt_weight * prompt

    def run(self, placement: Placement, tokens: int) -> float:
        """Seconds of a pass of so many tokens of one sequence."""
        clock, at, copier = 0.0, 0, self.copier(placement, tokens)
        for device in set(placement.homes) - {0}:
            clock += 5 * self.devices[device].write_seconds
        clock += sum(self._submissions(placement, device) for device in range(len(self.devices)))
        for layer, home, feed in zip(self.model.layers, placement.homes, placement.feeds, strict=True):
            clock += self.transfer(at, home, tokens) + self.layer(layer, home, feed, tokens, copier)
            at = home
        return clock + self.transfer(at, placement.output, 1) + self.output(placement.output)

    def _submissions(self, placement: Placement, device: int) -> float:
        """Seconds to describe layers to a device that computes in more than one part."""
        order: list[int] = []
        for layer, home, feed in zip(self.model.layers, placement.homes, placement.feeds, strict=True):
            order += [home, feed, home] if list(self._fed(layer, 1)) and feed != home else [home]
        parts = sum(each == device for each, _ in itertools.groupby(order))
        held = sum(device in pair for pair in zip(placement.homes, placement.feeds, strict=True))
        return self.devices[device].submit_seconds * held if parts > 1 else 0.0

    def copier(self, placement: Placement, tokens: int) -> int | None:
        """The first GPU that is used, where it computes with the CPU's weights in a pass of so many tokens."""
        for device in [*placement.homes, placement.output, *placement.feeds]:
            if 0 < self.devices[device].copies_from <= tokens:
                return device
        return None

    def layer(self, layer: Layer, home: int, feed: int, tokens: int, copier: int | None) -> float:
        """Seconds of a layer whose input is at its home already."""
        clock = self.devices[home].layer_seconds
        # The cache is read where it is, whatever is copied.
        (attention, *others), copies = self._at_home(layer, home, tokens), copier if home == 0 else None
        clock += self._operation(home, *attention)
        clock += sum(self._operation(home, *each) if copies is None else self._copied(copies, *each) for each in others)
        if copies is not None:
            clock += 2 * self.transfer(0, copies, tokens)
        for size, products in self._fed(layer, tokens):
            there = copier if feed == 0 and copier is not None else feed
            if home != there and not (home == feed == 0):
                clock += self.transfer(home, there, tokens) + self.transfer(there, home, tokens)
                if self.model.experts:
                    clock += 2 * (self.devices[home].read_seconds + self.devices[there].write_seconds)
            clock += self._operation(feed, size, products) if there == feed else self._copied(there, size, products)
            if self.model.experts:
                # To choose the experts, weigh and sum their results takes as many operations as a layer's others.
                clock += self.devices[feed].layer_seconds
        return clock

    def _copied(self, device: int, size: float, products: float) -> float:
        return self._link(device, size) + self._operation(device, size, products)

    def output(self, device: int) -> float:
        """Seconds of the last token's logits there, until the CPU has them."""
        made = self._operation(device, self.model.output.bytes, self.model.output.weights)
        return made + self._link(device, _FLOAT * self.model.vocabulary)

    def transfer(self, source: int, target: int, tokens: int) -> float:
        """Seconds of activations of so many tokens, from device to device."""
        size = _FLOAT * self.model.width * tokens
        return 0.0 if source == target else self._link(source, size) + self._link(target, size)

    def memory(self, placement: Placement) -> list[int]:
        """Bytes that each device has to hold."""
        held = [0] * len(self.devices)
        held[0] += self.model.embedding.bytes
        held[placement.output] += self.output_bytes()
        for layer, home, feed in zip(self.model.layers, placement.homes, placement.feeds, strict=True):
            held[home] += self.home_bytes(layer)
            held[feed] += self.feed_bytes(layer)
        for device in range(len(self.devices)):
            if device == 0 or device == placement.output or device in placement.homes or device in placement.feeds:
                held[device] += self.buffer_bytes()
        copier = self.copier(placement, self.work.pass_tokens)
        if copier is not None:
            held[copier] += max(
                self._copied_bytes(*each)
                for each in zip(self.model.layers, placement.homes, placement.feeds, strict=True)
            )
        return held

    def _copied_bytes(self, layer: Layer, home: int, feed: int) -> int:
        """The largest of the layer's tensors that are the CPU's."""
        routed = bool(self.model.experts)
        held = [layer.attention, *([layer.feed_forward] if routed else [])] if home == 0 else []
        held += [layer.experts if routed else layer.feed_forward] if feed == 0 else []
        return max((part.largest for part in held), default=0)

    def home_bytes(self, layer: Layer) -> int:
        """What the layer's home holds of it: its cache and states, and what each token uses."""
        held = layer.attention.bytes + layer.kv_bytes * self.work.cells + layer.state_bytes * self.work.sequences
        return held + (layer.feed_forward.bytes if self.model.experts else 0)

    def feed_bytes(self, layer: Layer) -> int:
        """What the device of the layer's routed experts holds; in a dense model that of its feed-forward part."""
        return layer.experts.bytes if self.model.experts else layer.feed_forward.bytes

    def output_bytes(self) -> int:
        """The output matrix, and the logits of a pass."""
        return self.model.output.bytes + _FLOAT * self.model.vocabulary * self.work.pass_tokens

    def buffer_bytes(self) -> int:
        """Eight vectors of activations, three between feed-forward matrices, and the mask in 32 and in 16 bits."""
        numbers = 8 * self.model.width + 3 * self.model.feed_width
        return self.work.pass_tokens * (_FLOAT * numbers + 6 * self.work.cells)

    def fits(self, placement: Placement) -> bool:
        """Whether each device holds what the placement puts there."""
        return all(held <= device.free for held, device in zip(self.memory(placement), self.devices, strict=True))

    def _at_home(self, layer: Layer, home: int, tokens: int) -> Iterator[tuple[float, float]]:
        """Bytes and multiplications of each operation, that over the cache first."""
        depth = self.work.depth + tokens // 2
        needed = layer.window if layer.window and not self.devices[home].reads_whole_caches else depth
        cache = layer.kv_bytes * min(depth, needed)
        yield cache, cache * tokens
        yield layer.attention.bytes, layer.attention.weights * tokens
        if self.model.experts:
            yield layer.feed_forward.bytes, layer.feed_forward.weights * tokens

    def _fed(self, layer: Layer, tokens: int) -> Iterator[tuple[float, float]]:
        if not self.model.experts:
            yield layer.feed_forward.bytes, layer.feed_forward.weights * tokens
        elif layer.experts.bytes:
            used = self.model.experts_used / self.model.experts
            touched = 1 - (1 - used) ** tokens
            yield layer.experts.bytes * touched, layer.experts.weights * used * tokens

    def _operation(self, device: int, size: float, products: float) -> float:
        return max(size / self.devices[device].bandwidth, products / self.devices[device].arithmetic)

    def _link(self, device: int, size: float) -> float:
        chosen = self.devices[device]
        return 0.0 if device == 0 else chosen.link_seconds + size / chosen.link_bandwidth
