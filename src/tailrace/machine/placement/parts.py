"""What a model consists of, as far as its placement matters: bytes, and what a token reads and multiplies of them."""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors that lie on one device."""

    bytes: int  #: what the device holds
    weights: int  #: numbers in its matrices, which a token that uses all of them multiplies with
    largest: int = 0  #: bytes of its largest tensor


NO_PART = Part(bytes=0, weights=0)


class PinnedPart(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors of a layer, or of the model's ends, that a rule puts on a device. They are in no other part."""

    device: int
    part: Part
    routed: bool = False  #: a token uses a few experts of it


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer. Its home is the device that computes its attention and holds its KV cache."""

    attention: Part  #: or what a recurrent layer has instead; with the norms
    feed_forward: Part  #: what each token uses: the dense part, or shared experts and the router
    experts: Part = NO_PART  #: routed ones, of which a token uses a few
    kv_bytes: int = 0  #: of a token in the layer's KV cache
    window: int = 0  #: tokens that attention needs at most; 0: all of them. The cache has all of them always
    state_bytes: int = 0  #: of a sequence, whatever its length: recurrent layers
    pinned: tuple[PinnedPart, ...] = ()


class ModelParts(msgspec.Struct, frozen=True, kw_only=True):
    """A model. llama.cpp keeps the embedding in the CPU's memory always."""

    embedding: Part
    output: Part
    layers: tuple[Layer, ...]
    width: int  #: numbers of a token's activations between layers
    vocabulary: int  #: logits of a token
    feed_width: int = 0  #: numbers between a layer's feed-forward matrices for a token; of all experts that it uses
    experts: int = 0  #: of a layer; 0: the model is dense
    experts_used: int = 0  #: of these, by a token
    pinned: tuple[PinnedPart, ...] = ()  #: beside the layers

    @property
    def expert_part(self) -> float:
        """The part of a layer's experts that one token uses."""
        return self.experts_used / self.experts if self.experts else 0.0

    @property
    def has_experts(self) -> bool:
        """Whether layers have routed experts."""
        return self.experts > 0

    def touched_part(self, tokens: int) -> float:
        """The part of a layer's experts that ``tokens`` tokens together use, where each token's choice is random."""
        return 1.0 - (1.0 - self.expert_part) ** tokens

    def feed(self, layer: Layer) -> Part:
        """What may be on another device than the layer's home: routed experts; in a dense model the feed-forward part.

        Shared experts stay at home: each token uses them, so they belong on the device with fast memory.
        """
        return layer.experts if self.has_experts else layer.feed_forward

    def at_home(self, layer: Layer) -> tuple[Part, ...]:
        """The layer's parts that its home holds always."""
        return (layer.attention, layer.feed_forward) if self.has_experts else (layer.attention,)

    @property
    def bytes(self) -> int:
        """All weights."""
        pinned = [*self.pinned, *(each for layer in self.layers for each in layer.pinned)]
        layers = sum(layer.attention.bytes + layer.feed_forward.bytes + layer.experts.bytes for layer in self.layers)
        return self.embedding.bytes + self.output.bytes + layers + sum(each.part.bytes for each in pinned)
