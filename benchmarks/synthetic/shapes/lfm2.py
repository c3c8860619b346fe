"""lfm2: short convolutions, and attention in every few layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Lfm2(Shape, frozen=True, kw_only=True):
    """A layer without attention has a convolution over the last tokens."""

    architecture: ClassVar[str] = "lfm2"
    feed_forward: int
    kv_heads: int
    attention_layers: tuple[int, ...]
    head: int = 64
    convolution: int = 3

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.feed_forward)
        # A layer without heads for keys is one of convolutions.
        kv_heads = [self.kv_heads if layer in self.attention_layers else 0 for layer in range(self.layers)]
        shape.add_attention(writer, self.embedding // self.head, kv_heads, self.head)
        writer.add_shortconv_l_cache(self.convolution)

    def tensors(self, words: int) -> Iterator[Tensor]:
        for tensor in super().tensors(words):
            # This architecture has another name for it.
            renamed = tensor.name == "output_norm.weight"
            yield shape.ones("token_embd_norm.weight", self.embedding) if renamed else tensor

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        if number in self.attention_layers:
            heads = self.embedding // self.head
            yield from shape.attention(self.embedding, self.embedding, heads, self.kv_heads, self.head)
            yield from shape.head_norms(self.head)
        else:
            yield shape.floats("shortconv.conv.weight", self.embedding, self.convolution)
            yield Tensor("shortconv.in_proj.weight", (3 * self.embedding, self.embedding))
            yield Tensor("shortconv.out_proj.weight", (self.embedding, self.embedding))
        yield shape.ones("ffn_norm.weight", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward)


_LFM2_1B = Lfm2(
    layers=16,
    context=32_768,
    embedding=2048,
    feed_forward=8192,
    kv_heads=8,
    attention_layers=(2, 5, 8, 10, 12, 14),
)

SHAPES: dict[str, Shape] = {
    # The dimensions of LFM2 1.2B.
    "lfm2": _LFM2_1B,
    "lfm2-small": shape.with_layers(_LFM2_1B, 4),
    "tiny-lfm2": Lfm2(layers=2, embedding=128, feed_forward=256, kv_heads=1, attention_layers=(1,)),
}
