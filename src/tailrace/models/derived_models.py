"""Models that clients have made of others: a name, and what it changes. An entry has no weights of its own.

Each is a JSON file in a folder of the store whose name begins with a dot, so that it isn't taken for a model. Files are
read once; whoever changes them does it here.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import structlog

from tailrace.errors import ModelError

_FOLDER = ".entries"
#: Clients can't fill a disk, or a list, with entries.
MAX_MODELS = 1000
_MAX_NAME_LENGTH = 200
_MAX_BYTES = 1_000_000  #: bytes of an entry


class DerivedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a name stands for. ``base`` is the model under it, ``parameters`` are Ollama's options."""

    base: str
    system: str = ""
    template: str = ""  #: in Jinja
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []  #: with which every conversation begins
    license: list[str] = []
    modified: datetime = datetime(1970, 1, 1, tzinfo=UTC)


_decoder = msgspec.json.Decoder(DerivedModel)


class DerivedModels:
    """The entries of one store, by name. Names have no tag ``latest``."""

    def __init__(self, store: Path) -> None:
        self._folder = store / _FOLDER
        self._models = self._read()

    def get(self, name: str) -> DerivedModel | None:
        """The entry of this name."""
        return self._models.get(name)

    def items(self) -> list[tuple[str, DerivedModel]]:
        """Every entry and its name, by name."""
        return sorted(self._models.items())

    def of(self, base: str) -> list[str]:
        """Names of the entries that are made of this model."""
        return [name for name, entry in self.items() if entry.base == base]

    def put(self, name: str, entry: DerivedModel) -> None:
        """Keep an entry; an older one of the name is replaced. Raises ModelError when it can't be."""
        if not is_derived_model_name(name):
            raise ModelError(
                f"{name[:_MAX_NAME_LENGTH]!r} can't be a model's name: use letters, digits, dots and dashes"
            )
        if name not in self._models and len(self._models) >= MAX_MODELS:
            raise ModelError(f"there are {MAX_MODELS} entries already; delete some")
        data = msgspec.json.encode(entry)
        if len(data) > _MAX_BYTES:
            raise ModelError(f"an entry may have {_MAX_BYTES:,} bytes, and this one has {len(data):,}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                file.write(data)
            os.replace(file.name, self._path(name))
        except OSError as error:
            raise ModelError(f"{self._folder} can't be written: {error}. Make room or correct its rights") from error
        self._models[name] = entry

    def remove(self, name: str) -> bool:
        """Forget an entry; False when there is none of the name. Raises ModelError when the disk doesn't let it."""
        if name not in self._models:
            return False
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise ModelError(f"{self._path(name)} can't be deleted: {error}. Correct its rights") from error
        del self._models[name]
        return True

    def _path(self, name: str) -> Path:
        return self._folder / f"{quote(name, safe='')}.json"

    def _read(self) -> dict[str, DerivedModel]:
        found: dict[str, DerivedModel] = {}
        try:
            files = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        except OSError:
            files = []
        for file in files[:MAX_MODELS]:
            try:
                found[unquote(file.stem)] = _decoder.decode(file.read_bytes())
            except (OSError, msgspec.DecodeError) as error:
                structlog.get_logger().warning("an entry of the store can't be read", file=file.name, error=str(error))
        return found


def is_derived_model_name(name: str) -> bool:
    """Whether an entry may have this name: as Ollama's names, with a tag and folders of users."""
    parts = name.split("/")
    return (
        0 < len(name) <= _MAX_NAME_LENGTH
        and len(parts) <= 3
        and all(part and part[0].isalnum() and part.isascii() for part in parts)
        and all(character.isalnum() or character in "._-:/" for character in name)
        and parts[-1].count(":") <= 1
        and ":" not in "".join(parts[:-1])
        and not name.endswith(":")
    )
