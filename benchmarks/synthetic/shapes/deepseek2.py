"""deepseek2: attention with latent keys and values (MLA) in the absorbed form, and shared experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class DeepSeek2(Shape, frozen=True, kw_only=True):
    """A cache cell has one key of ``latent + rotary`` numbers for all heads, whose first ``latent`` are the value."""

    architecture: ClassVar[str] = "deepseek2"
    heads: int
    latent: int
    query_latent: int
    plain: int  #: a head's dimensions without rotary positions
    rotary: int  #: and with
    value: int  #: of a head's value behind its own matrix
    feed_forward: int  #: of the dense layers
    expert_feed_forward: int
    experts: int
    experts_used: int
    shared_experts: int
    dense_layers: int = 1  #: that come first

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers + self.prediction_layers)
        if self.prediction_layers:
            writer.add_nextn_predict_layers(self.prediction_layers)
        writer.add_leading_dense_block_count(self.dense_layers)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_expert_feed_forward_length(self.expert_feed_forward)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        writer.add_expert_shared_count(self.shared_experts)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(True)
        writer.add_q_lora_rank(self.query_latent)
        writer.add_kv_lora_rank(self.latent)
        shape.add_attention(writer, self.heads, 1, self.latent + self.rotary, rotary=self.rotary, value=self.latent)
        writer.add_key_length_mla(self.plain + self.rotary)
        writer.add_value_length_mla(self.value)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield Tensor("attn_q_a.weight", (self.query_latent, self.embedding))
        yield shape.ones("attn_q_a_norm.weight", self.query_latent)
        yield Tensor("attn_q_b.weight", (self.heads * (self.plain + self.rotary), self.query_latent))
        yield Tensor("attn_kv_a_mqa.weight", (self.latent + self.rotary, self.embedding))
        yield shape.ones("attn_kv_a_norm.weight", self.latent)
        yield Tensor("attn_k_b.weight", (self.heads, self.latent, self.plain))
        yield Tensor("attn_v_b.weight", (self.heads, self.value, self.latent))
        yield Tensor("attn_output.weight", (self.embedding, self.heads * self.value))
        yield shape.ones("ffn_norm.weight", self.embedding)
        if number < self.dense_layers:
            yield from shape.feed_forward(self.embedding, self.feed_forward)
            return
        yield from shape.expert_feed_forward(self.embedding, self.expert_feed_forward, self.experts)
        yield shape.floats("exp_probs_b.bias", self.experts)
        yield from shape.feed_forward(self.embedding, self.expert_feed_forward * self.shared_experts, "_shexp")


SHAPES: dict[str, Shape] = {
    # The widths of DeepSeek-V2-Lite with a latent query, as V3 has it; 6 layers: 1.7 GB.
    "deepseek2": DeepSeek2(
        layers=6,
        embedding=2048,
        heads=16,
        latent=512,
        query_latent=768,
        plain=128,
        rotary=64,
        value=128,
        feed_forward=10_944,
        expert_feed_forward=1408,
        experts=64,
        experts_used=6,
        shared_experts=2,
    ),
    "deepseek2-small": DeepSeek2(
        layers=3,
        embedding=1024,
        heads=8,
        latent=512,
        query_latent=512,
        plain=128,
        rotary=64,
        value=128,
        feed_forward=4096,
        expert_feed_forward=512,
        experts=32,
        experts_used=4,
        shared_experts=1,
    ),
    "tiny-deepseek2": DeepSeek2(
        layers=2,
        embedding=256,
        heads=4,
        latent=128,
        query_latent=128,
        plain=64,
        rotary=32,
        value=64,
        feed_forward=512,
        expert_feed_forward=128,
        experts=4,
        experts_used=2,
        shared_experts=1,
    ),
}
