"""One model as it is served: its name, its file, and the settings that hold for it."""

from __future__ import annotations

import msgspec

from tailrace.settings import Settings


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. ``settings`` are the server's with the model's own in their place."""

    name: str  #: what clients call it
    path: str | None  #: its file, of several shards the first; None with the fake backend
    settings: Settings
    at_start: bool = False  #: whether its engines start with the server, before a request asks for it
