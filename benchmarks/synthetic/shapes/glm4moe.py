"""glm4moe: GLM-4.5, with shared experts and a prediction layer (MTP)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Glm4Moe(Shape, frozen=True, kw_only=True):
    """A dense layer first, then experts."""

    architecture: ClassVar[str] = "glm4moe"
    heads: int
    kv_heads: int
    feed_forward: int  #: of the dense layer
    expert_feed_forward: int
    experts: int
    experts_used: int
    head: int = 128

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers + self.prediction_layers)
        if self.prediction_layers:
            writer.add_nextn_predict_layers(self.prediction_layers)
        writer.add_leading_dense_block_count(1)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_expert_feed_forward_length(self.expert_feed_forward)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.experts_used)
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_norm(True)
        shape.add_attention(writer, self.heads, self.kv_heads, self.head, rotary=self.head // 2)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from shape.attention(self.embedding, self.heads * self.head, self.heads, self.kv_heads, self.head)
        yield from shape.head_norms(self.head)
        yield shape.ones("post_attention_norm.weight", self.embedding)
        if not number:
            yield from shape.feed_forward(self.embedding, self.feed_forward)
            return
        yield from shape.expert_feed_forward(self.embedding, self.expert_feed_forward, self.experts)
        yield shape.floats("exp_probs_b.bias", self.experts)
        yield from shape.feed_forward(self.embedding, self.expert_feed_forward, "_shexp")


_GLM = Glm4Moe(
    layers=4,
    embedding=2048,
    heads=32,
    kv_heads=4,
    feed_forward=8192,
    expert_feed_forward=768,
    experts=128,
    experts_used=8,
    prediction_layers=1,
    layer_scale=0.05,
)

SHAPES: dict[str, Shape] = {
    # The widths are half of GLM-4.5 Air's, with 4 layers and one that predicts: 1.4 GB.
    "glm4moe-mtp": _GLM,
    "glm4moe-mtp-small": shape.with_layers(_GLM, 2),
    "tiny-glm4moe-mtp": Glm4Moe(
        layers=2,
        embedding=256,
        heads=4,
        kv_heads=2,
        head=64,
        feed_forward=512,
        expert_feed_forward=128,
        experts=8,
        experts_used=2,
        prediction_layers=1,
        layer_scale=0.05,
    ),
}
