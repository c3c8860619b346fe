"""The demands of a user on a placement. The planner decides the rest."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Demands(msgspec.Struct, frozen=True, kw_only=True):
    """Each field narrows the choice; the defaults leave everything to the planner."""

    homes: Mapping[int, int] = {}  #: devices of whole layers, by layer
    output: int | None = None  #: a device
    kv_is_local: bool = False
    local: bool = True  #: the CPU takes its part; otherwise only what the other devices have no memory for
    device_layers: int | None = None  #: exactly so many layers, the last ones, are whole on devices beside the CPU
    order: tuple[int, ...] = ()  #: the devices beside the CPU in the order of their layers; empty: ascending


#: Everything is left to the planner.
ANYTHING = Demands()
