"""The setting ``placement``: which device has which layers and tensors, as a user writes it."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tailrace.errors import ConfigurationError

#: Bytes of a file of rules.
_MAX_FILE = 1_000_000
_Rules = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=1000)], Annotated[str, msgspec.Meta(max_length=300)]],
    msgspec.Meta(max_length=10_000),
]
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class PlacementRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Devices by name. What no rule names follows from what is free."""

    layers: _Rules = {}  #: by layers, such as ``0-9``; a layer's KV cache is there, too
    tensors: _Rules = {}  #: by a regular expression that is searched in a tensor's name; the first that matches
    output: str | None = None  #: of the output matrix
    kv: str | None = None  #: of all layers' KV cache: ``local`` alone
    remembered: bool = False  #: ``tailrace tune`` has written them: they count only as long as they can be followed

    @property
    def bind(self) -> bool:
        """Whether a user has written rules, which the engine follows or refuses."""
        return not self.remembered and bool(self.layers or self.tensors or self.output or self.kv)


def read_rules(value: str | Mapping[str, Any] | None) -> PlacementRules:
    """The rules of the setting: a file's (TOML), or a table's. Raises ConfigurationError."""
    if value is None:
        return PlacementRules()
    where = "placement"
    if isinstance(value, str):
        where = f"the placement file {value}"
        try:
            value = tomllib.loads(_text(Path(value)))
        except RecursionError as error:
            raise ConfigurationError(f"{where} can't be read: it is nested too deeply") from error
        except (OSError, RuntimeError, ValueError) as error:
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
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigurationError(f"{where}: {pattern!r} is no regular expression: {error}") from error
    return rules


def _text(path: Path) -> str:
    """The file's text. Raises OSError and ValueError; a home folder that isn't known is a RuntimeError."""
    path = path.expanduser()
    # Without waiting: a FIFO would let the start hang.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it isn't a regular file")
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise ValueError(f"it has more than {_MAX_FILE:,} bytes")
    return content.decode()


def layers_of(text: str) -> range:
    """The layers that a key of ``layers`` names: ``7`` or ``0-9``. Raises ConfigurationError."""
    found = _RANGE.fullmatch(text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigurationError(f"placement: {text!r} names no layers; write them like 0-9, or 7")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
