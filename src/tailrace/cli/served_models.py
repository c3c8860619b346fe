"""The models that ``tailrace serve`` serves: those of the command line, of the settings file, and those that are found.

One function makes the list of specs, so that each model's name, file and settings come about in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tailrace.cli.found_models import found_models, with_free_names, with_store_settings
from tailrace.cli.model_argument import find_or_fetch
from tailrace.cli.sampling_check import check_sampling
from tailrace.cli.template_check import check_chat_template
from tailrace.cli.tuned_settings import tuned
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.free_memory import read_memory
from tailrace.models.model_reference import ModelFile, locate_model
from tailrace.models.stores.found_model import FoundModel
from tailrace.serving.memory_share import keep_mb, memory_budget
from tailrace.serving.model_spec import ModelSpec, loads_on_demand
from tailrace.settings import Resolved, Settings, resolve

#: The name of the scripted model where none is set.
_FAKE = "fake"
#: Models that an error lists.
_MAX_LISTED = 8


@dataclass(frozen=True)
class ServedModels:
    """The server's settings, and what it serves: at least one model, of which the first is the default."""

    settings: Settings
    specs: tuple[ModelSpec, ...]


@dataclass(frozen=True)
class _Named:
    """A model that is to be served. ``section``: its table in the settings file, if it has one."""

    reference: str
    section: str | None = None
    found: FoundModel | None = None  #: of a store, where no user has named it

    def __str__(self) -> str:
        return self.reference if self.section is None else f"[models.{self.section}]"


def served_models(references: Sequence[str], flags: Mapping[str, Any], file: Path | None = None) -> ServedModels:
    """The models with these references, those of the settings file's ``[models.NAME]`` tables, and those that are found
    in ``models_dir`` or, with ``all_models``, in the stores.

    ``flags``: the other flags, by the setting's name. Raises ConfigurationError and ModelError.
    """
    single = references[0] if len(references) == 1 else None
    resolved = resolve({**flags, "model": single}, file=file)
    found = found_models(resolved.settings)
    named = _named(references, resolved, anything_else=bool(found))
    on_demand = loads_on_demand(resolved.settings, [*named, *found])
    if not on_demand and not resolved.models:
        spec = _only(resolved)
        return ServedModels(spec.settings, (spec,))
    if resolved.settings.alias is not None and len(named) + len(found) > 1:
        listed = ", ".join([*map(str, named), *(model.name for model in found)][:_MAX_LISTED])
        raise ConfigurationError(
            f"alias is {resolved.settings.alias!r}, but {len(named) + len(found)} models are served ({listed}), and a "
            "name has to be one model's: leave it out, or write the names into the settings file as [models.NAME]"
        )
    share = keep_mb(memory_budget(resolved.settings, read_memory())) if on_demand else None
    specs: dict[str, ModelSpec] = {}
    origins: dict[str, _Named] = {}
    for each in named:
        spec = _spec(each, resolved, first=not specs, share=share)
        other = specs.get(spec.name)
        if other is not None and each.section == spec.name and other.path == spec.path:
            continue  # An argument was the file of this table.
        if other is not None:
            raise ConfigurationError(
                f"two models would have the name {spec.name!r}: {origins[spec.name]} ({other.path}) and {each} "
                f"({spec.path}). Give one of them another name in the settings file: [models.NAME] with path"
            )
        specs[spec.name], origins[spec.name] = spec, each
    for model in with_free_names(found, specs.values()):
        specs[model.name] = _spec(_Named(model.reference, found=model), resolved, first=not specs, share=share)
    models = tuple(specs.values())
    if len(models) == 1:
        models = (msgspec.structs.replace(models[0], at_start=True),)
    if loads_on_demand(resolved.settings, models):
        return ServedModels(resolved.settings, models)
    return ServedModels(models[0].settings, models)


def _named(references: Sequence[str], resolved: Resolved, *, anything_else: bool) -> list[_Named]:
    """The models that the user names, in order: the arguments or the setting ``model``, then the tables of the file.

    The default of ``model`` counts where there is nothing else.
    """
    sections, settings = resolved.models, resolved.settings
    if not references and (resolved.origins["model"] != "default" or not (sections or anything_else)):
        if resolved.origins["model"] == "default" and settings.models_dir is not None:
            raise ConfigurationError(f"models_dir is {settings.models_dir}, where no model can be served")
        references = [settings.model]
    tables = {name: _Named(str(section.get("model", name)), name) for name, section in sections.items()}
    # An argument that is a table's name means this table.
    listed = [tables.get(reference) or _Named(reference) for reference in references]
    return listed + [table for table in tables.values() if table not in listed]


def _only(resolved: Resolved) -> ModelSpec:
    """The model of a server with one, which is served as the server's settings say."""
    resolved = tuned(resolved)
    settings = resolved.settings
    check_chat_template(settings.chat_template)
    check_sampling(settings.sampling)
    if settings.backend == "fake":
        return ModelSpec(name=settings.alias or _FAKE, path=None, settings=settings, at_start=True)
    found = find_or_fetch(settings)
    settings = _with_draft(with_store_settings(resolved, found.found).settings)
    return ModelSpec(name=settings.alias or found.name, path=str(found.path), settings=settings, at_start=True)


def _spec(named: _Named, resolved: Resolved, *, first: bool, share: int | None) -> ModelSpec:
    """One of the models, with the settings of its table. ``share``: its part of the memory for prefix caches, in MB;
    None where it has the memory alone.
    """
    if named.found is not None:
        name, section = named.found.name, resolved.models.get(named.found.name, {})
        found = ModelFile(path=named.found.path, name=name, found=named.found)
        own = _own(resolved.for_model(name), named.reference, section)
    elif named.section is None:
        found = _locate(named.reference, resolved)
        section = resolved.models.get(found.name, {})
        own = _own(resolved.for_model(found.name), named.reference, section)
        name = resolved.settings.alias or found.name
    else:
        section = resolved.models[named.section]
        own = _own(resolved.for_model(named.section), named.reference, section)
        name = section.get("alias") or resolved.settings.alias or named.section
        try:
            found = _locate(named.reference, resolved)
        except ModelError as error:
            if share is None:
                raise
            # A file may have gone since. The others are served, and requests for this one get the reason.
            structlog.get_logger().warning("a model can't be served", model=name, reason=str(error))
            found = ModelFile(path=Path(named.reference), name=name)
    if not first and "aliases" not in section:
        own = _with(own, aliases=())  # The server's are the first model's.
    own = with_store_settings(tuned(own, found.path), found.found)
    if own.origins["keep_mb"] == "default" and share is not None:
        own = _with(own, keep_mb=share)
    check_chat_template(own.settings.chat_template)
    check_sampling(own.settings.sampling, str(named) if "sampling" in section else "sampling")
    return ModelSpec(
        name=name,
        path=None if own.settings.backend == "fake" else str(found.path),
        settings=_with_draft(own.settings),
        # A model that was only found is loaded when it is asked for.
        at_start=(first and named.found is None) or own.settings.pinned,
    )


def _locate(reference: str, resolved: Resolved) -> ModelFile:
    """The model's file; the scripted backend has none. Raises ModelError."""
    if resolved.settings.backend == "fake":
        return ModelFile(path=Path(), name=reference)
    return find_or_fetch(msgspec.structs.replace(resolved.settings, model=reference))


def _own(resolved: Resolved, reference: str, section: Mapping[str, Any]) -> Resolved:
    """The settings of one model, without what can be one model's alone."""
    return _with(resolved, model=reference, alias=section.get("alias"))


def _with(resolved: Resolved, **values: Any) -> Resolved:
    return Resolved(msgspec.structs.replace(resolved.settings, **values), resolved.origins, resolved.models)


def _with_draft(settings: Settings) -> Settings:
    """The draft model is resolved now, so that a wrong name is an error before anything starts."""
    if settings.speculate != "draft" or settings.draft_model is None or settings.backend == "fake":
        return settings
    draft = locate_model(settings.draft_model, models_dir=settings.models_dir)
    return msgspec.structs.replace(settings, draft_model=str(draft.path))
