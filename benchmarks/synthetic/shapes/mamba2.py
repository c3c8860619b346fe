"""Mamba-2: pure, and hybrids with attention as Granite 4 and Falcon-H1 have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Mamba2(Shape, frozen=True, kw_only=True):
    """Only layers with a state. Each head has a matrix of ``inner / state_heads`` rows and ``state`` columns."""

    architecture: ClassVar[str] = "mamba2"
    inner: int
    state: int
    state_heads: int
    groups: int = 1
    convolution: int = 4
    feed_forward: int = 0  #: 0: none

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.feed_forward)
        shape.add_state_space(writer, self.inner, self.state, self.state_heads, self.groups, self.convolution)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from self._state_space()

    def _state_space(self) -> Iterator[Tensor]:
        yield from shape.state_space(
            self.embedding, self.inner, self.state, self.state_heads, self.groups, self.convolution
        )


class GraniteHybrid(Mamba2, frozen=True, kw_only=True):
    """A feed-forward part in each layer; a few layers have attention in place of the state."""

    architecture: ClassVar[str] = "granitehybrid"
    heads: int
    kv_heads: int
    head: int
    attention_layers: tuple[int, ...]

    def describe(self, writer: gguf.GGUFWriter) -> None:
        super().describe(writer)
        # A layer without heads for keys has a state.
        kv_heads = [self.kv_heads if layer in self.attention_layers else 0 for layer in range(self.layers)]
        shape.add_attention(writer, self.heads, kv_heads, self.head)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        if number in self.attention_layers:
            yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        else:
            yield from self._state_space()
        yield shape.ones("ffn_norm.weight", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward)


class FalconH1(Mamba2, frozen=True, kw_only=True):
    """A state and attention side by side in each layer."""

    architecture: ClassVar[str] = "falcon-h1"
    heads: int
    kv_heads: int
    head: int

    def describe(self, writer: gguf.GGUFWriter) -> None:
        super().describe(writer)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield from super().layer(number)
        yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        # The one norm whose name has no ".weight".
        yield shape.ones("ffn_norm", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward)


_MAMBA2_370M = Mamba2(layers=48, embedding=1024, inner=2048, state=128, state_heads=32)
_GRANITE_1B = GraniteHybrid(
    layers=40,
    embedding=1536,
    inner=3072,
    state=128,
    state_heads=48,
    feed_forward=4096,
    heads=12,
    kv_heads=4,
    head=128,
    attention_layers=(5, 15, 25, 35),
)
_FALCON_500M = FalconH1(
    layers=36,
    embedding=1024,
    inner=1536,
    state=128,
    state_heads=24,
    feed_forward=2048,
    heads=8,
    kv_heads=2,
    head=64,
)

SHAPES: dict[str, Shape] = {
    "mamba2": _MAMBA2_370M,
    "mamba2-small": shape.with_layers(_MAMBA2_370M, 8),
    "tiny-mamba2": Mamba2(layers=2, embedding=256, inner=512, state=32, state_heads=8),
    # The dimensions of Granite 4.0 H 1B.
    "granite-hybrid": _GRANITE_1B,
    "granite-hybrid-small": shape.with_layers(_GRANITE_1B, 8),
    "tiny-granite-hybrid": GraniteHybrid(
        layers=3,
        embedding=256,
        inner=512,
        state=32,
        state_heads=8,
        feed_forward=512,
        heads=4,
        kv_heads=2,
        head=64,
        attention_layers=(1,),
    ),
    "falcon-h1": _FALCON_500M,
    "falcon-h1-small": shape.with_layers(_FALCON_500M, 8),
    "tiny-falcon-h1": FalconH1(
        layers=2, embedding=256, inner=512, state=32, state_heads=8, feed_forward=512, heads=4, kv_heads=2, head=64
    ),
}
