"""qwen35: a hybrid of gated delta-nets and attention, with layers that predict further tokens (MTP) where asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf
import msgspec

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Qwen35(Shape, frozen=True, kw_only=True):
    """Every fourth layer is attention; the others have a state of one matrix for each value head."""

    architecture: ClassVar[str] = "qwen35"
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    rotary: int  #: dimensions of a head with rotary positions
    rotary_sections: tuple[int, int, int, int]  #: their halves by axis; a text has one axis
    state: int  #: rows and columns of a state's matrix
    key_groups: int
    value_heads: int
    attention_every: int = 4
    convolution: int = 4

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers + self.prediction_layers)
        if self.prediction_layers:
            writer.add_nextn_predict_layers(self.prediction_layers)
        writer.add_feed_forward_length(self.feed_forward)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head, rotary=self.rotary)
        writer.add_rope_dimension_sections(self.rotary_sections)
        writer.add_full_attention_interval(self.attention_every)
        writer.add_ssm_conv_kernel(self.convolution)
        writer.add_ssm_inner_size(self.state * self.value_heads)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_time_step_rank(self.value_heads)
        writer.add_ssm_group_count(self.key_groups)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        yield from self._attention() if (number + 1) % self.attention_every == 0 else self._delta_net()
        yield from self._feed_forward()

    def prediction_layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        yield from self._attention()
        yield from self._feed_forward()

    def _feed_forward(self) -> Iterator[Tensor]:
        yield from shape.feed_forward(self.embedding, self.feed_forward)

    def _attention(self) -> Iterator[Tensor]:
        # A query's row has its gate beside it.
        yield from shape.attention(self.embedding, 2 * self.heads * self.head, self.heads, self.kv_heads, self.head)
        yield from shape.head_norms(self.head)

    def _delta_net(self) -> Iterator[Tensor]:
        values = self.state * self.value_heads
        channels = values + 2 * self.state * self.key_groups
        yield Tensor("attn_qkv.weight", (channels, self.embedding))
        yield Tensor("attn_gate.weight", (values, self.embedding))
        yield shape.floats("ssm_conv1d.weight", channels, self.convolution)
        yield shape.floats("ssm_dt.bias", self.value_heads)
        yield shape.negative("ssm_a", self.value_heads)
        yield Tensor("ssm_beta.weight", (self.value_heads, self.embedding))
        yield Tensor("ssm_alpha.weight", (self.value_heads, self.embedding))
        yield shape.ones("ssm_norm.weight", self.state)
        yield Tensor("ssm_out.weight", (self.embedding, values))


class Qwen35Moe(Qwen35, frozen=True, kw_only=True):
    """The same with experts, of which one is used by every token."""

    architecture: ClassVar[str] = "qwen35moe"
    experts: int
    experts_used: int

    def describe(self, writer: gguf.GGUFWriter) -> None:
        super().describe(writer)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        writer.add_expert_feed_forward_length(self.feed_forward)
        writer.add_expert_shared_feed_forward_length(self.feed_forward)

    def _feed_forward(self) -> Iterator[Tensor]:
        yield from shape.expert_feed_forward(self.embedding, self.feed_forward, self.experts)
        yield shape.floats("ffn_gate_inp_shexp.weight", self.embedding)
        yield from shape.feed_forward(self.embedding, self.feed_forward, "_shexp")


_QWEN35_1B = Qwen35(
    layers=24,
    embedding=1024,
    feed_forward=3584,
    heads=8,
    kv_heads=2,
    head=256,
    rotary=64,
    rotary_sections=(11, 11, 10, 0),
    state=128,
    key_groups=16,
    value_heads=16,
)
_TINY = Qwen35(
    layers=4,
    embedding=256,
    feed_forward=512,
    heads=4,
    kv_heads=2,
    head=64,
    rotary=32,
    rotary_sections=(6, 5, 5, 0),
    state=32,
    key_groups=2,
    value_heads=4,
)
# The widths of Qwen3.5-35B-A3B, with 8 of its 40 layers and half of its experts: 1.9 GB.
_MOE = Qwen35Moe(
    layers=8,
    embedding=2048,
    feed_forward=512,
    heads=16,
    kv_heads=2,
    head=256,
    rotary=64,
    rotary_sections=(11, 11, 10, 0),
    state=128,
    key_groups=16,
    value_heads=32,
    experts=128,
    experts_used=8,
)

SHAPES: dict[str, Shape] = {
    # The dimensions of Qwen3.5-0.8B.
    "qwen35": _QWEN35_1B,
    "qwen35-small": shape.with_layers(_QWEN35_1B, 8),
    "tiny-qwen35": _TINY,
    # With a prediction layer (MTP) that is mostly right.
    "qwen35-mtp": msgspec.structs.replace(_QWEN35_1B, prediction_layers=1, layer_scale=0.03),
    "qwen35-mtp-small": msgspec.structs.replace(_QWEN35_1B, layers=8, prediction_layers=1, layer_scale=0.05),
    "qwen35-mtp-wrong-small": msgspec.structs.replace(_QWEN35_1B, layers=8, prediction_layers=1),
    "tiny-qwen35-mtp": msgspec.structs.replace(_TINY, prediction_layers=1, layer_scale=0.05),
    "qwen35moe": _MOE,
    "qwen35moe-small": msgspec.structs.replace(_MOE, layers=4, embedding=1024, experts=32),
    "tiny-qwen35moe": Qwen35Moe(
        layers=4,
        embedding=256,
        feed_forward=64,
        heads=4,
        kv_heads=2,
        head=64,
        rotary=32,
        rotary_sections=(6, 5, 5, 0),
        state=32,
        key_groups=2,
        value_heads=4,
        experts=16,
        experts_used=4,
    ),
}
