"""A placement: the device of each part of a model. It knows no names of tensors."""

from __future__ import annotations

import msgspec

#: Index of the CPU among a machine's devices.
CPU = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The device of each part, as an index into the machine's devices.

    A layer's home computes its attention and has its KV cache, its shared experts and its router. llama.cpp keeps a
    device's layers together, and those of the CPU come first.
    """

    homes: tuple[int, ...]  #: by layer
    feeds: tuple[int, ...]  #: by layer: of its routed experts; in a dense model, of its feed-forward part
    output: int
    kv_is_local: bool = False  #: the KV cache isn't at home, but on the CPU

    @property
    def attends_on_cpu(self) -> bool:
        """Whether all of the KV cache is on the CPU."""
        return self.kv_is_local or not any(self.homes)

    def layers_on(self, device: int) -> int:
        """How many layers are at home there."""
        return self.homes.count(device)

    def feeds_on(self, device: int) -> int:
        """How many layers have their experts or their feed-forward part there."""
        return self.feeds.count(device)
