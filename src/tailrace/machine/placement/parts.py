"""What a model consists of, as far as its placement matters: bytes, and what a token reads and multiplies of them."""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors that lie on one device."""

    bytes: int  #: what the device holds
    weights: int  #: numbers in its matrices, which a token that uses all of them multiplies with


NO_PART = Part(bytes=0, weights=0)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer. Its home is the device that computes its attention and holds its KV cache."""

    attention: Part  #: or what a recurrent layer has instead; with the norms
    feed_forward: Part  #: what each token uses: the dense part, or shared experts and the router
    experts: Part = NO_PART  #: of which a token uses a few
    kv_bytes: int = 0  #: of a token in the layer's KV cache
    window: int = 0  #: tokens that attention reads at most; 0: all of them
    state_bytes: int = 0  #: of a sequence, whatever its length: recurrent layers


class ModelParts(msgspec.Struct, frozen=True, kw_only=True):
    """A model. llama.cpp keeps the embedding in the CPU's memory always."""

    embedding: Part
    output: Part
    layers: tuple[Layer, ...]
    width: int  #: numbers of a token's activations between layers
    vocabulary: int  #: logits of a token
    experts: int = 0  #: of a layer; 0: the model is dense
    experts_used: int = 0  #: of these, by a token

    @property
    def expert_part(self) -> float:
        """The part of a layer's experts that one token uses."""
        return self.experts_used / self.experts if self.experts else 0.0

    def touched_part(self, tokens: int) -> float:
        """The part of a layer's experts that ``tokens`` tokens together use, where each token's choice is random."""
        return 1.0 - (1.0 - self.expert_part) ** tokens

    @property
    def bytes(self) -> int:
        """All weights."""
        layers = sum(layer.attention.bytes + layer.feed_forward.bytes + layer.experts.bytes for layer in self.layers)
        return self.embedding.bytes + self.output.bytes + layers
