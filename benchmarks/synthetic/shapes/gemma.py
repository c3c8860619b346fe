"""gemma3 and gemma2: sliding windows in most layers; gemma2 also bounds scores softly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Gemma3(Shape, frozen=True, kw_only=True):
    """Norms before and after each part; every sixth layer sees all tokens."""

    architecture: ClassVar[str] = "gemma3"
    head_norms: ClassVar[bool] = True
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
        if self.head_norms:
            yield from shape.head_norms(self.head)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        yield shape.ones("ffn_norm.weight", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward)
        yield shape.ones("post_ffw_norm.weight", self.embedding)


class Gemma2(Gemma3, frozen=True, kw_only=True):
    """A soft bound of attention's scores and of the logits; every second layer sees all tokens."""

    architecture: ClassVar[str] = "gemma2"
    head_norms: ClassVar[bool] = False

    def describe(self, writer: gguf.GGUFWriter) -> None:
        super().describe(writer)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)

    def tensors(self, words: int) -> Iterator[Tensor]:
        # Its output matrix is the embedding's.
        yield from (tensor for tensor in super().tensors(words) if tensor.name != "output.weight")


_GEMMA3_1B = Gemma3(layers=26, context=32_768, embedding=1152, feed_forward=6912, heads=4, kv_heads=1, window=512)

SHAPES: dict[str, Shape] = {
    # The dimensions of Gemma 3 1B.
    "gemma3": _GEMMA3_1B,
    "gemma3-small": shape.with_layers(_GEMMA3_1B, 6),
    # The dimensions of Gemma 2 2B, with 8 of its 26 layers.
    "gemma2": Gemma2(layers=8, embedding=2304, feed_forward=9216, heads=8, kv_heads=4, window=4096, head=256),
    "gemma2-small": Gemma2(layers=4, embedding=1152, feed_forward=4608, heads=4, kv_heads=2, window=512, head=256),
    "tiny-gemma2": Gemma2(layers=2, embedding=128, feed_forward=256, heads=2, kv_heads=1, window=64, head=64),
    "tiny-gemma3": Gemma3(layers=6, embedding=128, feed_forward=256, heads=2, kv_heads=1, window=64, head=64),
}
