"""One model as it is served: its name, its file, and the settings that hold for it."""

from __future__ import annotations

from collections.abc import Sized

import msgspec

from tailrace.settings import Settings


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. ``settings`` are the server's with the model's own in their place."""

    name: str  #: what clients call it
    path: str | None  #: its file, of several shards the first; None with the fake backend
    settings: Settings
    at_start: bool = False  #: whether its engines start with the server, before a request asks for it


def loads_on_demand(settings: Settings, models: Sized) -> bool:
    """Whether models are loaded when requests want them: several are served, or those that are found, which may be one.

    Otherwise the only model is there as long as the server is. ``settings``: the server's.
    """
    return len(models) > 1 or settings.all_models or settings.models_dir is not None
