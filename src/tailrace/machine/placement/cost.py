"""Predicts what a placement takes of each device's memory, and how fast it decodes and reads prompts.

The model of time is the simplest that decides rightly: devices work one after the other, as the layers of one token do.
A part takes the longer of reading its bytes and multiplying with them. A change of device costs a transfer of the
activations over the link, through the CPU between two other devices.

In a pass of many tokens llama.cpp has the first GPU that is used compute with the CPU's weights, too. They are copied
there one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import Layer, ModelParts, Part

#: Bytes of a number in activations and logits.
_FLOAT = 4
#: Vectors of a layer's activations, and of its feed-forward part, that a graph holds at once for a token.
_GRAPH_VECTORS, _FEED_VECTORS = 8, 3
#: Operations of a layer's router and experts beside the products, as a multiple of those of the rest of the layer.
_EXPERT_OPERATIONS = 1.0
#: Tensors that go along where a layer's experts are elsewhere: the chosen experts and their weights. Beside the
#: activations, a device gets positions, cells and masks in each pass.
_EXPERT_TENSORS, _INPUT_TENSORS = 2, 5
#: Bytes of the attention mask for a cell and a token: in 32 bits, and its copy in 16.
_MASK_BYTES = 6


class Prediction(msgspec.Struct, frozen=True):
    """What a placement takes and gives."""

    memory: tuple[int, ...]  #: bytes by device
    decode_seconds: float  #: of one token of one sequence
    prompt_seconds: float  #: of one token of a long prompt

    def cost(self, work: Work) -> float:
        """Seconds that count: of a token, with the prompt tokens that come with it."""
        return self.decode_seconds + work.prompt_weight * self.prompt_seconds


class PassCost:
    """Seconds of a pass of ``tokens`` tokens of one sequence, part by part."""

    def __init__(
        self,
        model: ModelParts,
        devices: Sequence[Device],
        tokens: int,
        depth: int,
        *,
        kv_is_local: bool,
        copier: int | None = None,
    ) -> None:
        """``depth``: tokens before the pass. ``copier``: the device that computes with the CPU's weights."""
        self._copier = copier
        self._model = model
        self._devices = devices
        self._tokens = tokens
        self._depth = depth + tokens // 2
        self._kv_is_local = kv_is_local
        self._touched, self._used = model.touched_part(tokens) if tokens > 1 else model.expert_part, model.expert_part
        #: By device and layer.
        self.home = [[self._home(layer, number) for layer in model.layers] for number in range(len(devices))]
        self.feed = [[self._feed(layer, number) for layer in model.layers] for number in range(len(devices))]
        #: By device: activations of the pass, and of one token, between the CPU and it.
        self.move = [self._link(number, _FLOAT * model.width * tokens) for number in range(len(devices))]
        #: By device: to another one and back for a layer's feed: a home's half of both ways, and that of the feed.
        further = _EXPERT_TENSORS if model.has_experts else 0
        self.leave = [2 * move + further * device.read_seconds for move, device in zip(self.move, devices, strict=True)]
        self.visit = [
            2 * move + further * device.write_seconds for move, device in zip(self.move, devices, strict=True)
        ]
        #: By home: where the layer's feed is the CPU's.
        self.fetch = [self._fetch(number) for number in range(len(devices))]
        #: By device: what else it gets in a pass where it has layers.
        self.inputs = [
            0.0 if number == CPU else _INPUT_TENSORS * device.write_seconds for number, device in enumerate(devices)
        ]
        self.move_last = [self._link(number, _FLOAT * model.width) for number in range(len(devices))]
        #: By device: logits of one token, the last one of a prompt, and their way to the CPU.
        self.output = [
            self._part(model.output, device, 1) + self._link(number, _FLOAT * model.vocabulary)
            for number, device in enumerate(devices)
        ]
        self.ends = sum(self._part(each.part, devices[each.device], 1) for each in model.pinned)

    def total(self, placement: Placement) -> float:
        """Seconds of the pass."""
        total, at = self.ends, CPU  # The embedding is there.
        total += sum(self.inputs[device] for device in set(placement.homes))
        total += sum(
            self._devices[device].submit_seconds * layers for device, layers in self._submitted(placement).items()
        )
        for number, (home, feed) in enumerate(zip(placement.homes, placement.feeds, strict=True)):
            if home != at:
                total += self.move[at] + self.move[home]
            total += self.home[home][number] + self.feed[feed][number]
            if feed != home and self.has_feed(number):
                # Out, and back for the sum with the layer's other parts.
                total += self.fetch[home] if feed == CPU else self.leave[home] + self.visit[feed]
            at = home
        if placement.output != at:
            total += self.move_last[at] + self.move_last[placement.output]
        return total + self.output[placement.output]

    def _submitted(self, placement: Placement) -> dict[int, int]:
        """Layers by device that are described to it in each pass.

        A device that computes its layers without a break is told to compute them again. One that waits for another
        device in between gets each part anew.
        """
        blocks, foreign, parted = Counter(placement.homes), Counter[int](), set[int]()
        for number, (home, feed) in enumerate(zip(placement.homes, placement.feeds, strict=True)):
            if feed != home and self.has_feed(number):
                parted.add(home)
                foreign[feed] += 1
        parted |= {device for device, count in foreign.items() if count > 1 or blocks[device]}
        return {device: blocks[device] + foreign[device] for device in parted}

    def busy(self, placement: Placement) -> list[float]:
        """Seconds by device, without moves between devices."""
        found = [0.0] * len(self._devices)
        for number, (home, feed) in enumerate(zip(placement.homes, placement.feeds, strict=True)):
            found[home] += self.home[home][number]
            found[feed] += self.feed[feed][number]
        found[placement.output] += self.output[placement.output]
        return found

    def read(self, placement: Placement) -> list[int]:
        """Bytes of weights by device that the pass reads."""
        model = self._model
        found = [0.0] * len(self._devices)
        for layer, home, feed in zip(model.layers, placement.homes, placement.feeds, strict=True):
            found[home] += sum(part.bytes for part in model.at_home(layer))
            found[feed] += model.feed(layer).bytes * (self._touched if model.has_experts else 1.0)
            for pinned in layer.pinned:
                found[pinned.device] += pinned.part.bytes * (self._touched if pinned.routed else 1.0)
        found[placement.output] += model.output.bytes
        return [round(each) for each in found]

    def has_feed(self, layer: int) -> bool:
        """Whether the layer has a part that may be on another device."""
        return self._model.feed(self._model.layers[layer]).bytes > 0

    def _home(self, layer: Layer, number: int) -> float:
        device = self._devices[number]
        total = device.layer_seconds + sum(self._weighted(part, number) for part in self._model.at_home(layer))
        if number == CPU and self._copier is not None:
            # Attention needs the CPU's cache.
            total += 2 * self._link(self._copier, _FLOAT * self._model.width * self._tokens)
        # Where the whole cache is the CPU's, the CPU attends: it gets the queries, and the device their results.
        attends = self._devices[CPU] if self._kv_is_local else device
        if self._kv_is_local and layer.kv_bytes:
            total += 2 * self._link(number, _FLOAT * self._model.width * self._tokens)
        is_whole = not layer.window or attends.reads_whole_caches
        read = layer.kv_bytes * (self._depth if is_whole else min(self._depth, layer.window))
        # Scores and sums: two multiplications for each number of a cell, which f16 keeps in two bytes; by each token.
        total += max(read / attends.bandwidth, read * self._tokens / attends.arithmetic)
        for pinned in layer.pinned:
            total += self._pinned(pinned.part, pinned.device, routed=pinned.routed)
            there = self._copier if pinned.device == CPU and self._copier is not None else pinned.device
            if there != number:
                total += 2 * sum(self._link(end, _FLOAT * self._model.width * self._tokens) for end in (number, there))
        return total

    def _pinned(self, part: Part, number: int, *, routed: bool) -> float:
        return self._experts(part, number) if routed else self._weighted(part, number)

    def _feed(self, layer: Layer, number: int) -> float:
        device = self._devices[number]
        if self._model.has_experts:
            operations = _EXPERT_OPERATIONS * device.layer_seconds if layer.experts.bytes else 0.0
            return self._experts(layer.experts, number) + operations
        return self._weighted(layer.feed_forward, number)

    def _fetch(self, home: int) -> float:
        if self._copier is None:
            return self.leave[home] + self.visit[CPU]
        return 0.0 if home == self._copier else self.leave[home] + self.visit[self._copier]

    def _weighted(self, part: Part, number: int) -> float:
        """Seconds of a part that each token uses, with the way of its weights where they are copied."""
        if number != CPU or self._copier is None or not part.bytes:
            return self._part(part, self._devices[number], self._tokens)
        return self._link(self._copier, part.bytes) + self._part(part, self._devices[self._copier], self._tokens)

    def _experts(self, part: Part, number: int) -> float:
        read, products = part.bytes * self._touched, part.weights * self._used * self._tokens
        copying, device = 0.0, self._devices[number]
        if number == CPU and self._copier is not None and part.bytes:
            copying, device = self._link(self._copier, round(read)), self._devices[self._copier]
        return copying + max(
            read / (device.expert_bandwidth or device.bandwidth),
            products / (device.expert_arithmetic or device.arithmetic),
        )

    @staticmethod
    def _part(part: Part, device: Device, tokens: int) -> float:
        return max(part.bytes / device.bandwidth, part.weights * tokens / device.arithmetic)

    def _link(self, number: int, size: int) -> float:
        """Seconds between the CPU and the device."""
        device = self._devices[number]
        return 0.0 if number == CPU else device.link_seconds + size / device.link_bandwidth


class CostModel:
    """Predictions for one model on one machine. ``kv_is_local``: of all placements that are asked for."""

    def __init__(self, model: ModelParts, devices: Sequence[Device], work: Work, *, kv_is_local: bool = False) -> None:
        self._model = model
        self._devices = devices
        self._work = work
        self._kv_is_local = kv_is_local
        self.decode = PassCost(model, devices, 1, work.depth, kv_is_local=kv_is_local)
        self._prompts: dict[int | None, PassCost] = {}

    def prompt(self, copier: int | None) -> PassCost:
        """The cost of a pass of prompt tokens in which the device ``copier`` computes with the CPU's weights."""
        if copier not in self._prompts:
            self._prompts[copier] = PassCost(
                self._model,
                self._devices,
                self._work.pass_tokens,
                self._work.depth,
                kv_is_local=self._kv_is_local,
                copier=copier,
            )
        return self._prompts[copier]

    def may_copy(self, device: int) -> bool:
        """Whether passes of prompt tokens have the device compute with the CPU's weights, where it is used."""
        return 0 < self._devices[device].copies_from <= self._work.pass_tokens

    def copier(self, placement: Placement) -> int | None:
        """The device that computes with the CPU's weights in passes of prompt tokens; None: the CPU does."""
        used = dict.fromkeys([*placement.homes, placement.output, *placement.feeds, *self.pinned_devices()])
        return next((device for device in used if self.may_copy(device)), None)

    def predict(self, placement: Placement) -> Prediction:
        """What the placement takes and gives."""
        return Prediction(
            self.memory(placement),
            self.decode.total(placement),
            self.prompt(self.copier(placement)).total(placement) / self._work.pass_tokens,
        )

    def memory(self, placement: Placement) -> tuple[int, ...]:
        """Bytes that each device must have."""
        model = self._model
        taken = [0] * len(self._devices)
        taken[CPU] += model.embedding.bytes
        taken[placement.output] += self.output_bytes
        for layer, home, feed in zip(model.layers, placement.homes, placement.feeds, strict=True):
            taken[home] += self.home_bytes(layer)
            taken[CPU] += self.local_kv_bytes(layer)
            taken[feed] += model.feed(layer).bytes
        for number, pinned in enumerate(self.pinned_bytes()):
            taken[number] += pinned
        for device in {CPU, placement.output, *placement.homes, *placement.feeds, *self.pinned_devices()}:
            taken[device] += self.buffer_bytes
        if (copier := self.copier(placement)) is not None:
            taken[copier] += self._copied_bytes(placement)
        return tuple(taken)

    def _copied_bytes(self, placement: Placement) -> int:
        """The largest of the CPU's tensors: one at a time is copied."""
        model, found = self._model, [0]
        for layer, home, feed in zip(model.layers, placement.homes, placement.feeds, strict=True):
            found += [part.largest for part in model.at_home(layer) if home == CPU]
            found += [model.feed(layer).largest] if feed == CPU else []
            found += [pinned.part.largest for pinned in layer.pinned if pinned.device == CPU]
        return max(found)

    @property
    def max_copied_bytes(self) -> int:
        """The largest tensor that the CPU may get."""
        everything = (CPU,) * len(self._model.layers)
        return self._copied_bytes(Placement(homes=everything, feeds=everything, output=CPU))

    @property
    def buffer_bytes(self) -> int:
        """What a device that computes anything needs for a pass."""
        numbers = _GRAPH_VECTORS * self._model.width + _FEED_VECTORS * self._model.feed_width
        return (_FLOAT * numbers + _MASK_BYTES * self._work.cells) * self._work.pass_tokens

    @property
    def output_bytes(self) -> int:
        """What the output's device holds: its weights, and the logits of a pass."""
        return self._model.output.bytes + _FLOAT * self._model.vocabulary * self._work.pass_tokens

    def home_bytes(self, layer: Layer) -> int:
        """What the layer's home holds of it always."""
        states = layer.state_bytes * self._work.sequences
        kept = 0 if self._kv_is_local else self.kv_bytes(layer)
        return sum(part.bytes for part in self._model.at_home(layer)) + kept + states

    def local_kv_bytes(self, layer: Layer) -> int:
        """What the CPU holds of the layer's cache, wherever its home is."""
        return self.kv_bytes(layer) if self._kv_is_local else 0

    def kv_bytes(self, layer: Layer) -> int:
        """The layer's KV cache. With a window it has all cells, too, so that a slot can be cut at any length."""
        return layer.kv_bytes * self._work.cells

    def pinned_bytes(self) -> list[int]:
        """Bytes by device of what rules have put there."""
        taken = [0] * len(self._devices)
        for each in [*self._model.pinned, *(each for layer in self._model.layers for each in layer.pinned)]:
            taken[each.device] += each.part.bytes
        return taken

    def pinned_devices(self) -> set[int]:
        """The devices on which rules have put something."""
        return {number for number, size in enumerate(self.pinned_bytes()) if size}
