"""Models that clients derive from others: a name with another system prompt, template or parameters. No own weights.

Ollama's ``create`` and ``copy`` make them. Each is a JSON file in a hidden folder of the store. Files are read once, so
only this module may change them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.models.file_replacement import replace_file

_FOLDER = ".entries"
#: Bounds, so that clients can't fill a disk or a list.
MAX_MODELS = 1000
_MAX_NAME_LENGTH = 200
_MAX_BYTES = 1_000_000  #: of one file


class DerivedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One derived model. ``base``: the model that has the weights. ``parameters``: Ollama's options."""

    base: str
    system: str = ""
    template: str = ""  #: in Jinja
    parameters: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []  #: the beginning of each conversation
    license: list[str] = []
    modified: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    owner: str = ""  #: the id of the API key that made it; empty without a named key


_decoder = msgspec.json.Decoder(DerivedModel)


class DerivedModels:
    """The derived models of one store, by name. Names have no tag ``latest``."""

    def __init__(self, store: Path) -> None:
        self._folder = store / _FOLDER
        self._models = self._read()

    def get(self, name: str) -> DerivedModel | None:
        """The derived model of this name; None when there is none."""
        return self._models.get(name)

    def items(self) -> list[tuple[str, DerivedModel]]:
        """All names with their models, sorted by name."""
        return sorted(self._models.items())

    def derived_from(self, base: str) -> list[str]:
        """The names of the models that are derived from ``base``."""
        return [name for name, entry in self.items() if entry.base == base]

    def put(self, name: str, entry: DerivedModel) -> None:
        """Store a model; replaces an older one of the name. Raises ModelError when that fails or exceeds a bound."""
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
            replace_file(self._path(name), data)
        except OSError as error:
            raise ModelError(f"{self._folder} can't be written: {error}. Make room or correct its rights") from error
        self._models[name] = entry

    def remove(self, name: str) -> bool:
        """Delete a model; False when there is none. Raises ModelError when the file can't be deleted."""
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
    """Whether a derived model may have this name: Ollama's form, with an optional user, folder and tag."""
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
