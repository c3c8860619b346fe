"""What each architecture's module defines: the dimensions of a model, its fields and its tensors."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import ClassVar

import gguf
import msgspec


class Values(enum.Enum):
    """What a tensor is filled with."""

    WEIGHTS = enum.auto()  #: random, in the model's format
    FLOATS = enum.auto()  #: random, 32 bits: routers, convolutions, biases
    NEGATIVE = enum.auto()  #: random and below 0, 32 bits: the decay of a recurrent state
    ONES = enum.auto()  #: 32 bits: norms
    IDENTITY = enum.auto()  #: 32 bits: a matrix whose output is the first part of its input


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]  #: rows before columns, as in NumPy
    values: Values = Values.WEIGHTS
    weight_format: str = ""  #: empty: the model's
    scale: float = 1.0  #: random weights are multiplied by it

    def within(self, layer: int) -> Tensor:
        """The tensor with the name that it has in this layer."""
        return msgspec.structs.replace(self, name=f"blk.{layer}.{self.name}")


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of a model. A subclass for each architecture adds its own."""

    #: As the file names it.
    architecture: ClassVar[str]
    layers: int
    embedding: int
    context: int = 8192
    vocabulary_size: int = 0  #: 0: the size of the copied vocabulary
    weight_format: str = "Q4_0"
    prediction_layers: int = 0  #: MTP; only some architectures have them
    #: What layers add to a token's embedding, as a part of what random weights would add. With little, the next token
    #: depends on the last one nearly alone, and the prediction layer, which sees that one, is nearly always right.
    layer_scale: float = 1.0

    def describe(self, writer: gguf.GGUFWriter) -> None:
        """Add the architecture's own fields to a file's header."""
        raise NotImplementedError

    def tensors(self, words: int) -> Iterator[Tensor]:
        """Every tensor of a model with so many words, in the file's order."""
        # Embeddings as large as what random layers add, where the layers add less.
        scale = self.embedding**0.5 if self.layer_scale < 1.0 else 1.0
        yield Tensor("token_embd.weight", (words, self.embedding), scale=scale)
        for number in range(self.layers):
            for tensor in scaled(self.layer(number), self.layer_scale):
                yield tensor.within(number)
        for number in range(self.layers, self.layers + self.prediction_layers):
            for tensor in scaled(self.prediction_layer(number), self.layer_scale):
                yield tensor.within(number)
            for tensor in prediction(self.embedding, self.layer_scale):
                yield tensor.within(number)
        yield ones("output_norm.weight", self.embedding)
        yield Tensor("output.weight", (words, self.embedding))

    def layer(self, number: int) -> Iterator[Tensor]:
        """The tensors of one layer; the names are without ``blk.N.``."""
        raise NotImplementedError

    def prediction_layer(self, number: int) -> Iterator[Tensor]:
        """The tensors of a prediction layer, but those of ``prediction``."""
        return self.layer(number)


def with_layers(shape: Shape, layers: int) -> Shape:
    """A shape with another number of layers."""
    return msgspec.structs.replace(shape, layers=layers)


def ones(name: str, *shape: int) -> Tensor:
    """A norm's factors."""
    return Tensor(name, shape, Values.ONES)


def floats(name: str, *shape: int) -> Tensor:
    """Random numbers of 32 bits."""
    return Tensor(name, shape, Values.FLOATS)


def negative(name: str, *shape: int) -> Tensor:
    """Random numbers below 0."""
    return Tensor(name, shape, Values.NEGATIVE)


def add_attention(
    writer: gguf.GGUFWriter, heads: int, kv_heads: int | list[int], head: int, *, rotary: int = 0, value: int = 0
) -> None:
    """The fields of attention with heads of size ``head``. So many dimensions of a head have rotary positions, and a
    value has its own size; 0 is the head's size.
    """
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(value or head)
    writer.add_rope_dimension_count(rotary or head)


def attention(embedding: int, queries: int, heads: int, kv_heads: int, head: int) -> Iterator[Tensor]:
    """The four matrices of attention; ``queries`` are the rows of the first."""
    yield Tensor("attn_q.weight", (queries, embedding))
    yield Tensor("attn_k.weight", (kv_heads * head, embedding))
    yield Tensor("attn_v.weight", (kv_heads * head, embedding))
    yield Tensor("attn_output.weight", (embedding, heads * head))


def head_norms(head: int) -> Iterator[Tensor]:
    """The norms of each query's and each key's head."""
    yield ones("attn_q_norm.weight", head)
    yield ones("attn_k_norm.weight", head)


def feed_forward(embedding: int, inner: int, suffix: str = "") -> Iterator[Tensor]:
    """A gated feed-forward part; ``suffix`` is "_shexp" for the experts that every token uses."""
    yield Tensor(f"ffn_gate{suffix}.weight", (inner, embedding))
    yield Tensor(f"ffn_up{suffix}.weight", (inner, embedding))
    yield Tensor(f"ffn_down{suffix}.weight", (embedding, inner))


def expert_feed_forward(embedding: int, inner: int, experts: int, weight_format: str = "") -> Iterator[Tensor]:
    """A router and its experts."""
    yield floats("ffn_gate_inp.weight", experts, embedding)
    yield Tensor("ffn_gate_exps.weight", (experts, inner, embedding), weight_format=weight_format)
    yield Tensor("ffn_up_exps.weight", (experts, inner, embedding), weight_format=weight_format)
    yield Tensor("ffn_down_exps.weight", (experts, embedding, inner), weight_format=weight_format)


def add_state_space(writer: gguf.GGUFWriter, inner: int, state: int, heads: int, groups: int, convolution: int) -> None:
    """The fields of Mamba-2 layers."""
    writer.add_ssm_conv_kernel(convolution)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(heads)
    writer.add_ssm_group_count(groups)


def state_space(embedding: int, inner: int, state: int, heads: int, groups: int, convolution: int) -> Iterator[Tensor]:
    """The tensors of a Mamba-2 layer."""
    channels = inner + 2 * groups * state
    yield Tensor("ssm_in.weight", (inner + channels + heads, embedding))
    yield floats("ssm_conv1d.weight", channels, convolution)
    yield floats("ssm_conv1d.bias", channels)
    yield floats("ssm_dt.bias", heads)
    yield negative("ssm_a", heads, 1)
    yield ones("ssm_d", heads, 1)
    yield ones("ssm_norm.weight", groups, inner // groups)
    yield Tensor("ssm_out.weight", (embedding, inner))


def scaled(tensors: Iterator[Tensor], scale: float) -> Iterator[Tensor]:
    """The tensors of a layer, of which those that add to the hidden state are multiplied by ``scale``."""
    for tensor in tensors:
        adds = tensor.name.startswith(("attn_output", "ssm_out", "ffn_down"))
        yield msgspec.structs.replace(tensor, scale=scale) if adds else tensor


def prediction(embedding: int, layer_scale: float) -> Iterator[Tensor]:
    """What a prediction layer (MTP) has beside the tensors of a layer."""
    # The first half of its input is the token's embedding, the second half the hidden state before it.
    values = Values.IDENTITY if layer_scale < 1.0 else Values.WEIGHTS
    yield Tensor("nextn.eh_proj.weight", (embedding, 2 * embedding), values)
    yield ones("nextn.enorm.weight", embedding)
    yield ones("nextn.hnorm.weight", embedding)
    yield ones("nextn.shared_head_norm.weight", embedding)
