"""The setting ``placement``: which device has which layers and tensors, as a user writes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tailrace.errors import ConfigurationError

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class PlacementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Devices by name. What no rule names follows from what is free."""

    layers: dict[str, str] = {}  #: by layers, such as ``0-9``; a layer's KV cache is there, too
    tensors: dict[str, str] = {}  #: by a regular expression that is searched in a tensor's name; the first that matches
    output: str | None = None  #: of the output matrix
    kv: str | None = None  #: of all layers' KV cache: ``local`` alone

    @property
    def is_empty(self) -> bool:
        """Whether they say nothing."""
        return self == PlacementRules()


def read_rules(value: str | Mapping[str, Any] | None) -> PlacementRules:
    """The rules of the setting: a file's (TOML), or a table's. Raises ConfigurationError."""
    if value is None:
        return PlacementRules()
    where = "placement"
    if isinstance(value, str):
        where = f"the placement file {value}"
        try:
            value = tomllib.loads(Path(value).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(f"{where} can't be read: {error}") from error
    try:
        rules = msgspec.convert(value, PlacementRules)
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"{where} can't be used: {error}. It may have layers and tensors (tables), output and kv (devices)"
        ) from error
    for text in rules.layers:
        layers_of(text)
    for pattern in rules.tensors:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigurationError(f"{where}: {pattern!r} is no regular expression: {error}") from error
    return rules


def layers_of(text: str) -> range:
    """The layers that a key of ``layers`` names: ``7`` or ``0-9``. Raises ConfigurationError."""
    found = _RANGE.fullmatch(text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigurationError(f"placement: {text!r} names no layers; write them like 0-9, or 7")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
