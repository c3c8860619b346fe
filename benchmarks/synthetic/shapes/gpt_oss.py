"""gpt-oss: sinks, every other layer with a sliding window, and experts in MXFP4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class GptOss(Shape, frozen=True, kw_only=True):
    """Attention may give weight to a sink of each head; every matrix has a bias. Experts stay in their own format."""

    architecture: ClassVar[str] = "gpt-oss"
    heads: int
    kv_heads: int
    window: int
    expert_feed_forward: int
    experts: int
    experts_used: int
    head: int = 64
    weight_format: str = "Q8_0"
    expert_format: str = "MXFP4"

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.expert_feed_forward)
        writer.add_expert_feed_forward_length(self.expert_feed_forward)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head)
        writer.add_sliding_window(self.window)
        writer.add_rope_freq_base(150_000)

    def layer(self, number: int) -> Iterator[Tensor]:
        keys = self.kv_heads * self.head
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        yield shape.floats("attn_q.bias", self.heads * self.head)
        yield shape.floats("attn_k.bias", keys)
        yield shape.floats("attn_v.bias", keys)
        yield shape.floats("attn_output.bias", self.embedding)
        yield shape.floats("attn_sinks.weight", self.heads)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        yield from shape.expert_feed_forward(self.embedding, self.expert_feed_forward, self.experts, self.expert_format)
        yield shape.floats("ffn_gate_inp.bias", self.experts)
        yield shape.floats("ffn_gate_exps.bias", self.experts, self.expert_feed_forward)
        yield shape.floats("ffn_up_exps.bias", self.experts, self.expert_feed_forward)
        yield shape.floats("ffn_down_exps.bias", self.experts, self.embedding)


SHAPES: dict[str, Shape] = {
    # The widths of gpt-oss-20b, with 4 of its 24 layers: 2 GB.
    "gpt-oss": GptOss(
        layers=4,
        context=32_768,
        embedding=2880,
        heads=64,
        kv_heads=8,
        window=128,
        expert_feed_forward=2880,
        experts=32,
        experts_used=4,
    ),
    "gpt-oss-small": GptOss(
        layers=2,
        context=32_768,
        embedding=960,
        heads=32,
        kv_heads=4,
        window=128,
        expert_feed_forward=960,
        experts=32,
        experts_used=4,
    ),
    "tiny-gpt-oss": GptOss(
        layers=2,
        embedding=256,
        heads=4,
        kv_heads=2,
        window=64,
        expert_feed_forward=256,
        experts=4,
        experts_used=2,
    ),
}
