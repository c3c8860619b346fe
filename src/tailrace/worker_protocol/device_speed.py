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


#: By ggml's name of the format: ``Q4_0``.
Products = Annotated[dict[str, ProductSpeed], Meta(max_length=64)]


class DeviceSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """A device that computes."""

    products: Annotated[Products, Meta(min_length=1)]
    experts: Products = {}  #: products of each token with a few of many matrices
    layer_seconds: Seconds  #: what a layer's operations take beside reading and arithmetic

    def of(self, weights: Mapping[str, Weights]) -> ProductSpeed:
        """The speed of products with ``weights``, which are given by format. They may not be empty.

        A format that wasn't measured counts as the slowest one.
        """
        return _mixed(self.products, weights)

    def of_experts(self, weights: Mapping[str, Weights]) -> ProductSpeed:
        """The same with routed experts' ``weights``."""
        return _mixed(self.experts or self.products, weights)


def _mixed(products: Mapping[str, ProductSpeed], weights: Mapping[str, Weights]) -> ProductSpeed:
    slowest = min(products.values(), key=lambda each: each.bandwidth)
    speeds = {name: products.get(name, slowest) for name in weights}
    reading = sum(each.bytes / speeds[name].bandwidth for name, each in weights.items())
    multiplying = sum(each.numbers / speeds[name].arithmetic for name, each in weights.items())
    return ProductSpeed(
        bandwidth=sum(each.bytes for each in weights.values()) / reading,
        arithmetic=sum(each.numbers for each in weights.values()) / multiplying,
    )


class LinkSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """The way between an engine and a device."""

    seconds: Seconds  #: of one transfer with the start of what is computed after it, whatever their size
    bandwidth: Rate  #: bytes in a second
    read_seconds: Seconds  #: of each further tensor that is read from the device after it
    write_seconds: Seconds  #: of each further tensor that is written to the device before it
    layer_seconds: Seconds  #: of the operations of a layer there: its description is sent, too
