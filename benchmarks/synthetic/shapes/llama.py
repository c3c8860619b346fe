"""llama: dense models, and mixtures of experts in Mixtral's form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Llama(Shape, frozen=True, kw_only=True):
    """Attention over all tokens, and a gated feed-forward part."""

    architecture: ClassVar[str] = "llama"
    feed_forward: int
    kv_heads: int
    head: int = 128
    experts: int = 0  #: of a layer's feed-forward part; 0: dense
    experts_used: int = 0  #: by one token

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.feed_forward)
        shape.add_attention(writer, self.embedding // self.head, self.kv_heads, self.head)
        if self.experts:
            writer.add_expert_count(self.experts)
            writer.add_expert_used_count(self.experts_used)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield from shape.attention(
            self.embedding, self.embedding, self.embedding // self.head, self.kv_heads, self.head
        )
        yield shape.ones("ffn_norm.weight", self.embedding)
        if self.experts:
            yield from shape.expert_feed_forward(self.embedding, self.feed_forward, self.experts)
        else:
            yield from shape.feed_forward(self.embedding, self.feed_forward)


SHAPES = {
    # Steps of 20 ms and more on one or two cores.
    "steps": Llama(layers=28, embedding=2048, feed_forward=5632, kv_heads=4),
    # Larger than the CPU's caches.
    "large": Llama(layers=18, embedding=4096, feed_forward=14336, kv_heads=8),
    # 2.2 GB; a token reads an eighth of it.
    "experts": Llama(layers=18, embedding=1024, feed_forward=1024, kv_heads=2, experts=64, experts_used=8),
    "experts-small": Llama(layers=4, embedding=1024, feed_forward=1024, kv_heads=2, experts=64, experts_used=8),
    # Half of a step is the output matrix.
    "vocabulary": Llama(layers=6, embedding=2048, feed_forward=5632, kv_heads=4, vocabulary_size=262_144),
    "tiny": Llama(layers=1, embedding=256, feed_forward=512, kv_heads=1),
    "tiny-vocabulary": Llama(layers=1, embedding=256, feed_forward=512, kv_heads=1, vocabulary_size=65_536),
    "tiny-experts": Llama(layers=2, embedding=256, feed_forward=512, kv_heads=1, experts=8, experts_used=2),
}
