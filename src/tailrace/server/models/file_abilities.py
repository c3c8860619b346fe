"""What served models can do by their files, where no engine has said it yet. Each header is read once, on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from tailrace.errors import ModelError
from tailrace.models.header_cache import HeaderCache
from tailrace.models.metadata_override import with_overrides
from tailrace.server.models.model_service import ModelService
from tailrace.serving.model_abilities import ModelAbilities, model_abilities
from tailrace.serving.model_spec import ModelSpec


class FileAbilities:
    """See the module."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[ModelService, ModelAbilities | None] = WeakKeyDictionary()

    async def read(self, services: Sequence[ModelService]) -> None:
        """Read the headers of those that have had no engine, as far as they aren't known."""
        new = [each for each in services if each.info is None and each not in self._known]
        if new:
            found = await asyncio.to_thread(_read, [each.spec for each in new])
            self._known.update(zip(new, found, strict=True))

    def of(self, service: ModelService) -> ModelAbilities | None:
        """The abilities by the header that was read; None where there is none, or it can't be read."""
        return self._known.get(service)


def _read(specs: Sequence[ModelSpec]) -> list[ModelAbilities | None]:
    headers = HeaderCache()
    return [_abilities(spec, headers) for spec in specs]


def _abilities(spec: ModelSpec, headers: HeaderCache) -> ModelAbilities | None:
    if spec.path is None:
        return None
    try:
        summary = headers.summary(Path(spec.path))
        values = with_overrides(summary.values, spec.settings.override_kv)
    except ModelError:
        return None  # It can't be loaded either.
    return model_abilities(msgspec.structs.replace(summary, values=values))
