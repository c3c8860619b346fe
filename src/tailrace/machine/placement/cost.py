"""Predicts what a placement takes of each device's memory, and how fast it decodes and reads prompts.

The model of time is the simplest that decides rightly: devices work one after the other, as the layers of one token do.
A part takes the longer of reading its bytes and multiplying with them. A change of device costs a transfer of the
activations over the link, through the CPU between two other devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.parts import Layer, ModelParts, Part

#: Bytes of a number in activations and logits.
_FLOAT = 4
#: Vectors of activations that a graph holds at once for each token of a pass, at most.
_GRAPH_VECTORS = 12
#: Index of the CPU among a machine's devices.
CPU = 0


class Placement(msgspec.Struct, frozen=True):
    """The device of each part, as an index into the machine's devices."""

    homes: tuple[int, ...]  #: by layer
    experts: tuple[int, ...]  #: by layer: the device of its routed experts
    output: int


class Prediction(msgspec.Struct, frozen=True):
    """What a placement takes and gives."""

    memory: tuple[int, ...]  #: bytes by device
    decode_seconds: float  #: of one token of one sequence
    prompt_seconds: float  #: of one token of a long prompt

    def cost(self, work: Work) -> float:
        """Seconds that count: of a token, with the prompt tokens that come with it."""
        return self.decode_seconds + work.prompt_weight * self.prompt_seconds


class CostModel:
    """Predictions for one model on one machine."""

    def __init__(self, model: ModelParts, devices: Sequence[Device], work: Work) -> None:
        self._model = model
        self._devices = devices
        self._work = work
        used = model.expert_part
        #: Seconds by device and layer of a decoded token: home, experts.
        self._decode_home = [[self._home(layer, device, 1, 1.0) for layer in model.layers] for device in devices]
        self._decode_experts = [
            [self._part_seconds(layer.experts, device, 1, used, used) for layer in model.layers] for device in devices
        ]
        rows = work.pass_tokens
        touched = model.touched_part(rows)
        #: The same of a whole pass over a prompt.
        self._prompt_home = [[self._home(layer, device, rows, 1.0) for layer in model.layers] for device in devices]
        self._prompt_experts = [
            [self._part_seconds(layer.experts, device, rows, touched, used) for layer in model.layers]
            for device in devices
        ]

    def predict(self, placement: Placement) -> Prediction:
        """What the placement takes and gives."""
        return Prediction(
            self.memory(placement),
            self._seconds(placement, 1, self._decode_home, self._decode_experts),
            self._seconds(placement, self._work.pass_tokens, self._prompt_home, self._prompt_experts)
            / self._work.pass_tokens,
        )

    def memory(self, placement: Placement) -> tuple[int, ...]:
        """Bytes that each device must have."""
        taken = [0] * len(self._devices)
        taken[CPU] += self._model.embedding.bytes
        taken[placement.output] += self._model.output.bytes
        taken[placement.output] += _FLOAT * self._model.vocabulary * self._work.sequences
        for layer, home, experts in zip(self._model.layers, placement.homes, placement.experts, strict=True):
            taken[home] += self.home_bytes(layer)
            taken[experts] += layer.experts.bytes
        for device in {CPU, placement.output, *placement.homes, *placement.experts}:
            taken[device] += self.buffer_bytes
        return tuple(taken)

    @property
    def buffer_bytes(self) -> int:
        """What a device that computes anything needs for a pass."""
        return _FLOAT * self._model.width * _GRAPH_VECTORS * self._work.pass_tokens

    def home_bytes(self, layer: Layer) -> int:
        """What the layer's home holds of it: weights but for routed experts, KV cache, recurrent states."""
        cells = min(self._work.cells, layer.window * self._work.sequences) if layer.window else self._work.cells
        states = layer.state_bytes * self._work.sequences
        return layer.attention.bytes + layer.feed_forward.bytes + layer.kv_bytes * cells + states

    def _seconds(
        self,
        placement: Placement,
        tokens: int,
        home_seconds: Sequence[Sequence[float]],
        expert_seconds: Sequence[Sequence[float]],
    ) -> float:
        total = 0.0
        at = CPU  # The embedding is there.
        for number, (home, experts) in enumerate(zip(placement.homes, placement.experts, strict=True)):
            if home != at:
                total += self._move(at, home, tokens)
            total += home_seconds[home][number]
            at = home
            if self._model.layers[number].experts.bytes:
                if experts != home:
                    # Out, and back for the sum with the layer's other parts.
                    total += self._move(home, experts, tokens) + self._move(experts, home, tokens)
                total += expert_seconds[experts][number]
        if placement.output != at:
            total += self._move(at, placement.output, 1)
        # A prompt's logits are those of its last token.
        total += self._part_seconds(self._model.output, self._devices[placement.output], 1, 1.0, 1.0)
        logits = _FLOAT * self._model.vocabulary
        device = self._devices[placement.output]
        return total + (device.link_seconds + logits / device.link_bandwidth if placement.output != CPU else 0.0)

    def _home(self, layer: Layer, device: Device, tokens: int, part: float) -> float:
        depth = self._work.depth + tokens // 2
        read = min(depth, layer.window) if layer.window else depth
        cache = layer.kv_bytes * read / device.bandwidth
        # Scores and sums: two multiplications for each number of a cell, which f16 keeps in two bytes; by each token.
        cache = max(cache, layer.kv_bytes * read * tokens / device.arithmetic)
        return (
            self._part_seconds(layer.attention, device, tokens, part, part)
            + self._part_seconds(layer.feed_forward, device, tokens, part, part)
            + cache
            + device.layer_seconds
        )

    @staticmethod
    def _part_seconds(part: Part, device: Device, tokens: int, read: float, multiplied: float) -> float:
        """``read``: the part of its bytes; ``multiplied``: the part of its weights that each token multiplies."""
        return max(part.bytes * read / device.bandwidth, part.weights * multiplied * tokens / device.arithmetic)

    def _move(self, source: int, target: int, tokens: int) -> float:
        """Activations of ``tokens`` tokens from one device to another."""
        size = _FLOAT * self._model.width * tokens
        ends = [self._devices[end] for end in (source, target) if end != CPU]
        return sum(end.link_seconds + size / end.link_bandwidth for end in ends)
