"""The models that are served because they were found: in ``models_dir``, and with ``all_models`` in all stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.models.header_cache import HeaderCache
from tailrace.models.reference import name_key
from tailrace.models.stores.all_stores import STORES, read_stores
from tailrace.models.stores.found_model import FoundModel
from tailrace.serving.model_abilities import model_abilities
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Resolved, Settings

#: Models that are served without being named.
_MAX_MODELS = 1000


def found_models(settings: Settings) -> list[FoundModel]:
    """The models to serve beside those that the user has named, in the order of the stores. What can't be served is
    left out with a line in the log.
    """
    if settings.models_dir is None and not settings.all_models:
        return []
    log = structlog.get_logger()
    stores = STORES if settings.all_models else ("folder",)
    headers = HeaderCache()
    found: list[FoundModel] = []
    for contents in read_stores(settings.models_dir, stores=stores):
        for problem in contents.problems:
            log.warning("a store can't be read", store=contents.store, reason=problem)
        for model in contents.models:
            reason = model.problem or _unusable(model, headers)
            if reason is None and len(found) == _MAX_MODELS:
                log.warning("too many models: the others aren't served", served=_MAX_MODELS)
                return found
            if reason is None:
                found.append(model)
            else:
                log.warning("a model can't be served", model=model.reference, reason=reason)
    headers.save()
    return found


def _unusable(model: FoundModel, headers: HeaderCache) -> str | None:
    """Why the model can't be served, by its header."""
    try:
        return model_abilities(headers.summary(model.path)).problem
    except ModelError as error:
        return str(error)


def with_free_names(models: Iterable[FoundModel], served: Iterable[ModelSpec]) -> Iterator[FoundModel]:
    """The models that aren't served yet, each with a name that no other has: its own, or with its store in front.

    A model of the hub that is in several stores is served once.
    """
    served = list(served)
    names = {name_key(spec.name) for spec in served}
    paths = {spec.path for spec in served}
    for model in models:
        if str(model.path) in paths:
            continue
        name = model.name
        if name_key(name) in names:
            name = f"{model.store}/{name}"
            if model.repository is not None or name_key(name) in names:
                continue
        names.add(name_key(name))
        paths.add(str(model.path))
        yield msgspec.structs.replace(model, name=name)


def with_store_settings(resolved: Resolved, model: FoundModel | None) -> Resolved:
    """The settings with the store's system prompt and sampling parameters, where the user has set no others."""
    if model is None or (not model.system and not model.parameters):
        return resolved
    values: dict[str, Any] = {"sampling": {**model.parameters, **resolved.settings.sampling}}
    if model.system and resolved.settings.system_prompt is None:
        values["system_prompt"] = model.system
    return Resolved(msgspec.structs.replace(resolved.settings, **values), resolved.origins, resolved.models)
