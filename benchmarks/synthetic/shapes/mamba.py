"""mamba: the first one, whose state has a decay for each number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import gguf

from benchmarks.synthetic.shapes import shape
from benchmarks.synthetic.shapes.shape import Shape, Tensor


class Mamba(Shape, frozen=True, kw_only=True):
    """Only layers with a state of ``state`` numbers for each of ``inner`` channels."""

    architecture: ClassVar[str] = "mamba"
    inner: int
    time_step_rank: int
    state: int = 16
    convolution: int = 4

    def describe(self, writer: gguf.GGUFWriter) -> None:
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(0)
        writer.add_ssm_conv_kernel(self.convolution)
        writer.add_ssm_inner_size(self.inner)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_time_step_rank(self.time_step_rank)

    def layer(self, number: int) -> Iterator[Tensor]:
        yield shape.ones("attn_norm.weight", self.embedding)
        yield Tensor("ssm_in.weight", (2 * self.inner, self.embedding))
        yield shape.floats("ssm_conv1d.weight", self.inner, self.convolution)
        yield shape.floats("ssm_conv1d.bias", self.inner)
        yield Tensor("ssm_x.weight", (self.time_step_rank + 2 * self.state, self.inner))
        yield shape.floats("ssm_dt.weight", self.inner, self.time_step_rank)
        yield shape.floats("ssm_dt.bias", self.inner)
        yield shape.negative("ssm_a", self.inner, self.state)
        yield shape.ones("ssm_d", self.inner)
        yield Tensor("ssm_out.weight", (self.embedding, self.inner))


_MAMBA_130M = Mamba(layers=24, embedding=768, inner=1536, time_step_rank=48)

SHAPES: dict[str, Shape] = {
    "mamba": _MAMBA_130M,
    "mamba-small": shape.with_layers(_MAMBA_130M, 8),
    "tiny-mamba": Mamba(layers=2, embedding=128, inner=256, time_step_rank=8),
}
