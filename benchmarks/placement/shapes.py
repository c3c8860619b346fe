"""Shapes of real models: only what decides their placement, without a file."""

from __future__ import annotations

from typing import NamedTuple

from tailrace.machine.placement.parts import NO_PART, Layer, ModelParts, Part


class Shape(NamedTuple):
    """A model as its card describes it. ``bits``: of a weight, on average."""

    layers: int
    width: int
    heads_kv: int
    head: int
    attention_width: int  #: of all queries together
    feed_forward: int  #: of a dense layer, or of the shared experts; 0: none
    vocabulary: int
    bits: float
    experts: int = 0
    used: int = 0
    expert_width: int = 0
    dense_first: int = 0  #: layers before the first one with experts
    window: int = 0  #: of every second layer


SHAPES = {
    "8B dense, Q4_K_M": Shape(32, 4096, 8, 128, 4096, 14336, 128256, 4.85),
    "14B dense, Q4_K_M": Shape(40, 5120, 8, 128, 5120, 17408, 151936, 4.85),
    "24B dense, Q4_K_M": Shape(40, 5120, 8, 128, 4096, 32768, 131072, 4.85),
    "27B with windows, Q4_0": Shape(62, 5376, 16, 128, 4096, 21504, 262144, 4.5, window=1024),
    "32B dense, Q4_K_M": Shape(64, 5120, 8, 128, 5120, 27648, 152064, 4.85),
    "70B dense, Q4_K_M": Shape(80, 8192, 8, 128, 8192, 28672, 128256, 4.85),
    "20B, 4 of 32 experts": Shape(24, 2880, 8, 64, 4096, 0, 201088, 4.25, 32, 4, 2880, window=128),
    "30B, 8 of 128 experts": Shape(48, 2048, 4, 128, 4096, 0, 151936, 4.85, 128, 8, 768),
    "47B, 2 of 8 experts": Shape(32, 4096, 8, 128, 4096, 0, 32000, 4.85, 8, 2, 14336),
    "120B, 4 of 128 experts": Shape(36, 2880, 8, 64, 4096, 0, 201088, 4.25, 128, 4, 2880, window=128),
    "235B, 8 of 128 experts": Shape(94, 4096, 4, 128, 8192, 0, 151936, 4.85, 128, 8, 1536),
    "671B, 8 of 256 experts": Shape(61, 7168, 1, 288, 24576, 2048, 129280, 4.85, 256, 8, 2048, dense_first=3),
}


def parts_of(shape: Shape) -> ModelParts:
    """The shape's parts, with caches of 16-bit numbers."""

    def part(weights: int) -> Part:
        # Most parts have three large matrices.
        size = int(weights * shape.bits / 8)
        return Part(bytes=size, weights=weights, largest=size // 3)

    def layer(number: int) -> Layer:
        attention = 2 * shape.width * shape.attention_width + 2 * shape.width * shape.heads_kv * shape.head
        has_experts = shape.experts > 0 and number >= shape.dense_first
        dense = shape.feed_forward if has_experts or not shape.experts else 9 * shape.feed_forward
        expert = 3 * shape.width * shape.expert_width * shape.experts
        return Layer(
            attention=part(attention),
            feed_forward=part(3 * shape.width * dense) if dense else Part(bytes=4096, weights=1024),
            experts=part(expert) if has_experts else NO_PART,
            kv_bytes=4 * shape.heads_kv * shape.head,
            window=shape.window if number % 2 else 0,
        )

    return ModelParts(
        embedding=part(shape.width * shape.vocabulary),
        output=part(shape.width * shape.vocabulary),
        layers=tuple(map(layer, range(shape.layers))),
        width=shape.width,
        vocabulary=shape.vocabulary,
        feed_width=shape.used * shape.expert_width if shape.experts else shape.feed_forward,
        experts=shape.experts,
        experts_used=shape.used,
    )
