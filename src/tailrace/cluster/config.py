"""The cluster's file: which models it serves, how many replicas each may have, and what one replica takes.

It is a settings file (TOML) with some names more. At the top are settings that hold for every replica and ingress. Each
``[models.NAME]`` table has the model's settings, its number of replicas and their resources. This module reads and
checks it, and starts nothing.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tailrace.errors import ConfigurationError
from tailrace.settings import MODEL_FIELDS, Settings, resolve_table

#: Settings that a cluster's file can't have, and what does their work in a cluster.
_OTHER_WAYS = {
    "alias": "the name of a [models.NAME] table is what clients use",
    "all_models": "list each model as [models.NAME]",
    "cluster_secret": "the cluster makes one itself",
    "http_cpus": "Ray decides where a replica runs; set cores for each model",
    "manage_models": "list each model as [models.NAME]",
    "model": "list each model as [models.NAME]",
    "models_dir": "list each model as [models.NAME] with path",
    "models_mb": "set memory_mb for each model",
    "replicas": "set it for each model, in its [models.NAME] table",
}
#: Secrets that may come from the environment instead of the file.
_SECRETS = ("api_key", "keys_store", "responses_store")

_Count = Annotated[int, Meta(ge=0, le=10_000)]
_Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas a model has, and what each takes. None: from the machine's plan and the model's file."""

    min_replicas: _Count = 1
    max_replicas: Annotated[int, Meta(ge=1, le=10_000)] = 1
    cores: Annotated[int, Meta(ge=1, le=4096)] | None = None
    memory_mb: Annotated[int, Meta(ge=1, le=16_777_216)] | None = None
    gpus: Annotated[float, Meta(ge=0, le=64)] | None = None
    idle_seconds: _Seconds = 300.0  #: without a request, after which a model with min_replicas = 0 has none
    scale_up_seconds: _Seconds = 2.0  #: how long there has to be too much work before there are more replicas
    scale_down_seconds: _Seconds = 60.0  #: how long there has to be less work before there are fewer

    @property
    def is_fixed(self) -> bool:
        """Whether the number never changes."""
        return self.min_replicas == self.max_replicas


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its name, its own settings as the file has them, and its replicas."""

    name: str
    section: dict[str, Any]  #: settings of the ``[models.NAME]`` table, checked, by their names
    replicas: Replicas


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster's file, checked. It travels to the actors, so it has plain data alone."""

    ingresses: Annotated[int, Meta(ge=1, le=1000)] = 1  #: processes that clients connect to, at most one on a node
    server: dict[str, Any]  #: settings of all replicas and ingresses, as the file has them
    models: tuple[ModelConfig, ...]

    @property
    def settings(self) -> Settings:
        """The settings of an ingress."""
        return msgspec.convert(self.server, Settings)

    def settings_of(self, model: ModelConfig) -> Settings:
        """The settings of a model's replicas."""
        return msgspec.convert({**self.server, **model.section}, Settings)


def read_config(path: Path, environment: Mapping[str, str] | None = None) -> ClusterConfig:
    """The cluster's file. Raises ConfigurationError, which names the parameter at fault."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"the cluster's file {path} can't be read: {error}") from error
    return parse_config(table, f"the cluster's file {path}", environment)


def parse_config(table: Mapping[str, Any], where: str, environment: Mapping[str, str] | None = None) -> ClusterConfig:
    """The contents of a cluster's file. ``where`` names it in errors.

    ``environment`` may have the secrets, such as ``TAILRACE_API_KEY``; None: this process's.
    Raises ConfigurationError, which names the parameter at fault.
    """
    environment = os.environ if environment is None else environment
    sections = table.get("models", {})
    if not isinstance(sections, dict) or not sections:
        raise ConfigurationError(f"{where} has no model: write a table [models.NAME] with path for each")
    server = {name: value for name, value in table.items() if name not in ("models", "ingresses")}
    for name in sorted(server.keys() & _OTHER_WAYS.keys()):
        raise ConfigurationError(f"{where} can't have {name}: {_OTHER_WAYS[name]}")
    ingresses = _checked({"ingresses": table.get("ingresses", 1)}, _Ingresses, where).ingresses
    split = {name: _split(section, f"{where}: [models.{name}]") for name, section in sections.items()}
    secrets = {f"TAILRACE_{name.upper()}": name for name in _SECRETS}
    given = {variable: environment[variable] for variable in secrets if variable in environment}
    resolved = resolve_table({**server, "models": {name: own for name, (own, _) in split.items()}}, where, given)
    return ClusterConfig(
        ingresses=ingresses,
        server={name: getattr(resolved.settings, name) for name in (*server, *(secrets[name] for name in given))},
        models=tuple(
            ModelConfig(name=name, section=dict(resolved.models[name]), replicas=replicas)
            for name, (_, replicas) in split.items()
        ),
    )


class _Ingresses(msgspec.Struct, frozen=True):
    ingresses: Annotated[int, Meta(ge=1, le=1000)]


def _split(section: object, where: str) -> tuple[dict[str, Any], Replicas]:
    """A model's settings, and its replicas. Raises ConfigurationError."""
    if not isinstance(section, dict):
        raise ConfigurationError(f"{where} has to be a table")
    if "path" not in section and "model" not in section:
        raise ConfigurationError(
            f"{where} has no path: name the model's file, or a reference such as hf:ORG/REPO:QUANT"
        )
    for name in sorted(section.keys() & (_OTHER_WAYS.keys() - {"model", "replicas"})):
        raise ConfigurationError(f"{where} can't have {name}: {_OTHER_WAYS[name]}")
    possible = (MODEL_FIELDS | _REPLICAS | {"path"}) - _OTHER_WAYS.keys() | {"replicas"}
    if unknown := sorted(section.keys() - possible):
        raise ConfigurationError(f"{where} can't have {', '.join(unknown)}; it may have {', '.join(sorted(possible))}")
    own = {name: value for name, value in section.items() if name not in (*_REPLICAS, "replicas")}
    counts = {name: value for name, value in section.items() if name in _REPLICAS}
    if "replicas" in section:
        if twice := sorted(counts.keys() & {"min_replicas", "max_replicas"}):
            raise ConfigurationError(f"{where} has replicas and {twice[0]}: leave one of them out")
        fixed = _checked({"replicas": section["replicas"]}, _Fixed, where).replicas
        counts |= {"min_replicas": fixed, "max_replicas": fixed}
    elif "max_replicas" not in counts and isinstance(least := counts.get("min_replicas"), int):
        counts["max_replicas"] = max(1, least)
    replicas = _checked(counts, Replicas, where)
    if replicas.min_replicas > replicas.max_replicas:
        raise ConfigurationError(
            f"{where} min_replicas is {replicas.min_replicas}, but max_replicas is {replicas.max_replicas}: "
            "raise max_replicas"
        )
    return own, replicas


class _Fixed(msgspec.Struct, frozen=True):
    replicas: Annotated[int, Meta(ge=1, le=10_000)]


_REPLICAS = frozenset(field.name for field in msgspec.structs.fields(Replicas))
_Checked = TypeVar("_Checked", bound=msgspec.Struct)


def _checked(values: Mapping[str, Any], kind: type[_Checked], where: str) -> _Checked:
    """``values`` as ``kind``. Raises ConfigurationError, which names the first value that is wrong."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in values.items():
        try:
            msgspec.convert(value, fields[name])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{where} {name} can't be {value!r}: {error}") from error
    return msgspec.convert(values, kind)
