"""How fast a device computes and how fast it is reached, as measurements have found it. Workers report the first.

The values may come from another machine, so each has bounds. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

#: Something a second. No device is as fast as the bound.
Rate = Annotated[float, Meta(gt=0, le=1e18)]
Seconds = Annotated[float, Meta(ge=0, le=60)]


class Weights(NamedTuple):
    """Matrices of one format."""

    bytes: int
    numbers: int  #: in all of them


class ProductSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Products with matrices of one format."""

    bandwidth: Rate  #: bytes of weights in a second, with one token
    arithmetic: Rate  #: multiplications, each with its addition, in a second, with many tokens


class DeviceSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """A device that computes."""

    products: Annotated[
        dict[str, ProductSpeed], Meta(min_length=1, max_length=64)
    ]  #: by ggml's name of the format: ``Q4_0``
    layer_seconds: Seconds  #: what a layer's operations take beside reading and arithmetic

    def of(self, weights: Mapping[str, Weights]) -> ProductSpeed:
        """The speed of products with ``weights``, which are given by format. They may not be empty.

        A format that wasn't measured counts as the slowest one.
        """
        reading = sum(each.bytes / self._speed(name).bandwidth for name, each in weights.items())
        multiplying = sum(each.numbers / self._speed(name).arithmetic for name, each in weights.items())
        return ProductSpeed(
            bandwidth=sum(each.bytes for each in weights.values()) / reading,
            arithmetic=sum(each.numbers for each in weights.values()) / multiplying,
        )

    def _speed(self, name: str) -> ProductSpeed:
        slowest = min(self.products.values(), key=lambda each: each.bandwidth)
        return self.products.get(name, slowest)


class LinkSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """The way between an engine and a device."""

    seconds: Seconds  #: of one transfer with the start of what is computed after it, whatever their size
    bandwidth: Rate  #: bytes in a second
    tensor_seconds: Seconds  #: of each further tensor that goes the same way
    layer_seconds: Seconds  #: of the operations of a layer there: its description is sent, too
