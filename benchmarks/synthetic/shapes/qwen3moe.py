"""qwen3moe: many small experts, as Qwen3-30B-A3B has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Qwen3Moe(Shape, frozen=True, kw_only=True):
    """Attention with normed heads, and experts in each layer."""

    architecture: ClassVar[str] = "qwen3moe"
    expert_feed_forward: int
    heads: int
    kv_heads: int
    head: int = 128
    experts: int = 128
    experts_used: int = 8

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.expert_feed_forward * self.experts_used)
        writer.add_expert_feed_forward_length(self.expert_feed_forward)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        yield from shape.head_norms(self.head)
        yield shape.ones("ffn_norm.weight", self.embedding)
        yield from shape.expert_feed_forward(self.embedding, self.expert_feed_forward, self.experts)


SHAPES = {
    # The widths of Qwen3-30B-A3B: 2.2 GB, of which a token reads 250 MB.
    "experts-128": Qwen3Moe(layers=6, embedding=2048, expert_feed_forward=768, heads=32, kv_heads=4),
    "experts-128-small": Qwen3Moe(layers=2, embedding=1024, expert_feed_forward=384, heads=16, kv_heads=2),
    "tiny-experts-128": Qwen3Moe(layers=2, embedding=256, expert_feed_forward=64, heads=4, kv_heads=1, head=64),
}
