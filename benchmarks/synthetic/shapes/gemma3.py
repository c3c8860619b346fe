"""gemma3: five of six layers have a sliding window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Gemma3(Shape, frozen=True, kw_only=True):
    """Norms before and after each part."""

    architecture: ClassVar[str] = "gemma3"
    feed_forward: int
    heads: int
    kv_heads: int
    window: int
    head: int = 256

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.feed_forward)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head)
        writer.add_sliding_window(self.window)
        writer.add_rope_freq_base(1_000_000)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        yield from shape.head_norms(self.head)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        yield shape.ones("ffn_norm.weight", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward)
        yield shape.ones("post_ffw_norm.weight", self.embedding)


_GEMMA3_1B = Gemma3(layers=26, context=32_768, embedding=1152, feed_forward=6912, heads=4, kv_heads=1, window=512)

SHAPES: dict[str, Shape] = {
    # The dimensions of Gemma 3 1B.
    "gemma3": _GEMMA3_1B,
    "gemma3-small": shape.with_layers(_GEMMA3_1B, 6),
    "tiny-gemma3": Gemma3(layers=6, embedding=128, feed_forward=256, heads=2, kv_heads=1, window=64, head=64),
}
