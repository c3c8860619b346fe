"""The directory: which served model a request's ``model`` means, and which names a caller sees.

A name is looked for in this order: the name of a served model; a model derived from one; both in any case, or in
another form of reference (``reference.name_keys``); an alias. Ollama's tag ``latest`` is the same as none: its lists
show the tag, and its clients send it to every dialect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tailrace.errors import ModelNotFound
from tailrace.models.derived_models import DerivedModel, DerivedModels
from tailrace.models.reference import name_key, name_keys
from tailrace.server.caller import current_caller
from tailrace.server.models.model_service import ModelService
from tailrace.serving.control import ModelReport

#: The tag that a model's name has in Ollama's lists.
LATEST = ":latest"
#: Characters of a wrong name that are repeated, and served models that an error names.
_MAX_SHOWN = 200
_MAX_LISTED = 8
#: Unloaded models whose vocabulary and template stay in memory for their next load. A large one has 30 MB.
_MAX_KEPT = 4


class NamedModel(NamedTuple):
    """The model of a name."""

    service: ModelService
    derived: DerivedModel | None = None  #: where the name is that of a derived model


class ModelDirectory:
    """See the module. The first service is the default: it answers requests without a name."""

    def __init__(
        self, services: Iterable[ModelService], derived: DerivedModels, store: Path, *, on_demand: bool = False
    ) -> None:
        """``derived`` are the derived models of the local store, whose folder is ``store``. ``on_demand``: models are
        loaded when requests want them; otherwise there is one, which stays.
        """
        self.on_demand = on_demand
        self.derived = derived
        self._store = store
        self._services: dict[str, ModelService] = {}
        self._retired: dict[str, ModelService] = {}  #: those that were deleted, until their engines have ended
        self._folded: dict[str, ModelService] = {}
        self._stored: dict[str, ModelService] = {}  #: by their names in the store
        self._aliases: list[tuple[str, ModelService]] = []  #: the most specific first
        for service in services:
            self.add(service)

    # Services

    @property
    def services(self) -> list[ModelService]:
        """All served models, the default first."""
        return list(self._services.values())

    @property
    def default(self) -> ModelService:
        """The first of them."""
        return next(iter(self._services.values()))

    def service(self, name: str) -> ModelService:
        """The service of a ``ServedModel.name``. Raises ModelNotFound for one that was removed meanwhile."""
        service = self._services.get(name)
        if service is None:
            raise self.not_found(name)
        return service

    def on_report(self, report: ModelReport) -> None:
        """The supervisor reports a model's engines."""
        # Both have the name where one was deleted and pulled again.
        for services in (self._retired, self._services):
            if (service := services.get(report.name)) is not None:
                service.on_report(report)

    def on_all_reported(self, names: frozenset[str]) -> None:
        """The supervisor has reported the models of these ``names``, and has engines of no other."""
        for service in self._services.values():
            if service.name not in names:
                service.on_absent()

    def add(self, service: ModelService) -> None:
        """Serve one more model, or another one under this name."""
        self._services[service.name] = service
        service.on_change.append(self._forget_unloaded)
        self._index()

    def retire(self, service: ModelService) -> None:
        """Serve it no more; it isn't the default. It gets reports of its engines until ``forget``."""
        del self._services[service.name]
        self._retired[service.name] = service
        service.on_change.remove(self._forget_unloaded)
        self._index()

    def forget(self, service: ModelService) -> None:
        """Its engines have ended."""
        if self._retired.get(service.name) is service:
            del self._retired[service.name]

    def _forget_unloaded(self, changed: ModelService) -> None:
        """Keep what the most recently used of the unloaded models need for their next load, and drop the others'."""
        if changed.phase == "unloaded":
            unloaded = [each for each in self._services.values() if each.phase == "unloaded" and each.engine.model]
            for service in sorted(unloaded, key=lambda each: each.last_used)[:-_MAX_KEPT]:
                service.forget()

    def _index(self) -> None:
        services = self.services
        # The first of several that mean the same. An exact name comes before a name that only means the model.
        ranked = [
            (rank, key, service)
            for service in reversed(services)
            for rank, key in enumerate(name_keys(service.name, service.spec.settings.model))
        ]
        self._folded = {key: service for _, key, service in sorted(ranked, key=lambda entry: -entry[0])}
        named = [(self.store_name(service), service) for service in reversed(services)]
        self._stored = {name: service for name, service in named if name is not None}
        aliases = [(alias, service) for service in services for alias in service.spec.settings.aliases]
        self._aliases = sorted(aliases, key=lambda entry: ("*" in entry[0], -len(entry[0])))

    def store_name(self, service: ModelService) -> str | None:
        """The model's name in the store, if it is there: derived models refer to it by that name."""
        path = service.path
        return path.parent.name if path is not None and path.parent.parent == self._store else None

    # Names

    def find(self, name: str) -> NamedModel | None:
        """The model of this name, also where the caller may not use it; None: none is served."""
        if (found := self.named(name)) is not None:
            return found
        service = self._alias(name)
        return None if service is None else NamedModel(service)

    def named(self, name: str) -> NamedModel | None:
        """As ``find``, without aliases: a model that has this name itself, in some form."""
        if (service := self.own(name)) is not None:
            return NamedModel(service)
        bare = name.removesuffix(LATEST)
        if (entry := self.derived.get(bare)) is not None and (base := self.base(entry.base)) is not None:
            return NamedModel(base, entry)
        return self._folded_name(name.casefold())

    def _folded_name(self, name: str) -> NamedModel | None:
        """The model with this name in another case or another form; ``name`` is folded."""
        names = (*_tagged(name), name_key(name))
        if (service := next((self._folded[known] for known in names if known in self._folded), None)) is not None:
            return NamedModel(service)
        for known, entry in self.derived.items():
            if known.casefold() in names and (base := self.base(entry.base)) is not None:
                return NamedModel(base, entry)
        return None

    def routed(self, name: str | None) -> str | None:
        """``name`` on routes of llama-server's, which ignores it where it serves one model."""
        return None if not name or (not self.on_demand and self.find(name) is None) else name

    def base(self, name: str) -> ModelService | None:
        """The served model that a derived model's ``base`` means."""
        return self._stored.get(name) or self.own(name) or self._alias(name)

    def own(self, name: str) -> ModelService | None:
        """The served model whose own name this is, and no alias."""
        return next((self._services[known] for known in _tagged(name) if known in self._services), None)

    def _alias(self, name: str) -> ModelService | None:
        for spelt, fold in ((name, str), (name.casefold(), str.casefold)):
            for alias, service in self._aliases:
                if any(fnmatchcase(known, fold(alias)) for known in _tagged(spelt)):
                    return service
        return None

    # Names, as far as the caller's key may use them

    def resolve(self, name: str | None) -> NamedModel:
        """The model of this name; None is the first one that the caller may use. Raises ModelNotFound."""
        found = self.allowed(name)
        if found is None:
            raise self.not_found(name)
        return found

    def allowed(self, name: str | None) -> NamedModel | None:
        """The model of this name; None: there is none, or the caller's key may not use it."""
        if name is None:
            service = next((service for service in self._services.values() if self.may_use(service.name)), None)
            return None if service is None else NamedModel(service)
        found = self.find(name)
        if found is None:
            return None
        own = () if found.derived is not None else (found.service.name,)
        return found if _may_use((name, *own)) else None

    def may_use(self, name: str) -> bool:
        """Whether the caller's key may use the model of this name. An alias may be used by its own name and by that of
        the model.
        """
        if not current_caller().models:
            return True
        found = self.find(name)
        own = () if found is None or found.derived is not None else (found.service.name,)
        return _may_use((name, *own))

    def not_found(self, name: str | None) -> ModelNotFound:
        """The error for a name of which the caller may use no model."""
        name = self.default.name if name is None else name
        shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
        return ModelNotFound(f"The model '{shown}' does not exist here; {self.reason()}.", param="model")

    def reason(self) -> str:
        """Why a name means no model that the caller may use, with some that it may."""
        usable = [service.name for service in self._services.values() if self.may_use(service.name)]
        names = ", ".join(f"'{name}'" for name in usable[:_MAX_LISTED])
        more = f" and {len(usable) - _MAX_LISTED} more" if len(usable) > _MAX_LISTED else ""
        if not current_caller().models:
            return f"this server serves {names}{more}"
        return f"or this key may not use it; it may use {names}{more}" if usable else "or this key may not use it"

    # Lists

    @property
    def usable(self) -> list[ModelService]:
        """The served models that the caller's key may use."""
        return [service for service in self._services.values() if self.may_use(service.name)]

    @property
    def listed(self) -> list[tuple[str, NamedModel]]:
        """All names of models that the caller's key may use: the served ones first, then those derived from them."""
        served = [(service.name, NamedModel(service)) for service in self.usable]
        derived = [
            (name, NamedModel(base, entry))
            for name, entry in self.derived.items()
            if name not in self._services and (base := self.base(entry.base)) is not None and _may_use((name,))
        ]
        return [*served, *derived]

    def listed_name(self, name: str) -> str:
        """The name that a list has for the model of this name. Raises ModelNotFound."""
        found = self.resolve(name)
        return name.removesuffix(LATEST) if found.derived is not None else found.service.name


def _tagged(name: str) -> tuple[str, str, str]:
    """The name, without the tag ``latest`` and with it."""
    return name, name.removesuffix(LATEST), f"{name}{LATEST}"


def _may_use(names: Sequence[str]) -> bool:
    """Whether the caller's key may use a model that has these names."""
    return current_caller().may_use({*names, *(name.removesuffix(LATEST) for name in names)})
