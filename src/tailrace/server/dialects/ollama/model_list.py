"""The list of models: the served one, models derived from it and, with ``manage_models``, the models in the store.

It reads files, so handlers call it on a thread. It changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tailrace.chat.families import FAMILIES
from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.derived_models import DerivedModel
from tailrace.models.file_fingerprint import fingerprint
from tailrace.models.model_header import ModelHeader, Value, read_header
from tailrace.models.shards import total_bytes
from tailrace.models.store import Store, StoredModel, is_name
from tailrace.protocol import ModelInfo, Sampling
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama import model_names
from tailrace.server.dialects.ollama.modelfile import quoted

_TEMPLATE = "tokenizer.chat_template"
#: GGUF keys of models with fill-in-the-middle tokens.
_FILL_KEYS = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
#: The names of thinking switches in templates, and harmony's marker, which isn't for reasoning alone.
_SWITCHES = ("enable_thinking", "reasoning_effort", "<|channel|>")


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model as clients see it. ``name`` has its tag."""

    name: str
    path: Path | None  #: None is the scripted backend's
    bytes: int
    modified: datetime
    digest: str
    architecture: str
    parameters: int
    quantisation: str | None
    values: dict[str, Value]
    entry: DerivedModel | None = None  #: of a derived model
    parent: str = ""  #: and the other one's name

    @property
    def details(self) -> dict[str, Any]:
        """Ollama's summary of it."""
        return {
            "parent_model": self.parent,
            "format": "gguf",
            "family": self.architecture,
            "families": [self.architecture],
            "parameter_size": _count(self.parameters),
            "quantization_level": self.quantisation or "unknown",
        }

    @property
    def row(self) -> dict[str, Any]:
        """The row in lists. Some clients read ``name``, others ``model``."""
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": self.modified,
            "size": self.bytes,
            "digest": self.digest,
            "details": self.details,
        }


class ModelList:
    """See the module. ``store`` is the one that clients may manage."""

    def __init__(self, app: AppState, store: Store) -> None:
        self._app = app
        self._store = store
        #: The header and digest of a file, by path, size and modification time.
        self._read: dict[tuple[Path, int, int], tuple[ModelHeader, str]] = {}

    def models(self, info: ModelInfo | None) -> list[ModelEntry]:
        """Every model that the caller's key may use, the served one first; ``info`` is the engine's, once it has
        loaded.
        """
        shown = [self._served(info)]
        if self._app.settings.manage_models:
            shown += [model for stored in self._store.models() if (model := self._stored(stored)) is not None]
        bases = {model.name: model for model in shown}
        for name, entry in self._app.derived_models.items():
            if self._app.is_base(entry.base):
                shown.append(_derived(name, entry, shown[0]))
            elif (base := bases.get(model_names.with_tag(entry.base))) is not None:
                shown.append(_derived(name, entry, base))
        return [model for model in shown if self._app.may_use(model.name)]

    def find(self, name: str | None, info: ModelInfo | None) -> ModelEntry:
        """The model of this name. Raises ModelNotFound, also where the caller's key may not use it."""
        if not self._app.may_use(name or None):
            raise model_names.not_served(self._app, name)
        return self._find(name, info)

    def _find(self, name: str | None, info: ModelInfo | None) -> ModelEntry:
        if not name or model_names.is_served_model(self._app, name):
            return self._served(info)
        store_name = model_names.without_tag(name)
        if (entry := self._app.derived_models.get(store_name)) is not None:
            base = None if self._app.is_base(entry.base) else entry.base
            return _derived(store_name, entry, self._find(base, info))
        if self._app.settings.manage_models and is_name(store_name):
            stored = self._store.find(store_name)
            if stored is not None and (shown := self._stored(stored)) is not None:
                return shown
        if model_names.is_served(self._app, name):
            return self._served(info)
        raise model_names.not_served(self._app, name)

    def is_served(self, stored: StoredModel) -> bool:
        """Whether the running engines have this model's folder open, under whatever name."""
        used = [Path(path) for path in (self._app.model_path, self._app.settings.draft_model) if path is not None]
        file, folder = stored.path.resolve(), stored.path.parent.resolve()
        return any(path.resolve() == file or path.parent.resolve() == folder for path in used)

    def _served(self, info: ModelInfo | None) -> ModelEntry:
        name = model_names.with_tag(self._app.model_name)
        path = self._app.model_path
        if path is not None:
            try:
                shown = self._of_file(name, path, total_bytes(path))
                if info is None or self._app.settings.chat_template is None:
                    return shown
                # Show the template that is used, not the file's.
                return msgspec.structs.replace(shown, values={**shown.values, _TEMPLATE: info.chat_template or ""})
            except (ModelError, OSError) as error:
                # The file was deleted; the engine runs on with the mapped one.
                structlog.get_logger().warning("the served model's file can't be read", error=str(error))
        return ModelEntry(
            name=name,
            path=None,
            bytes=info.size_bytes if info is not None else 0,
            modified=datetime.fromtimestamp(self._app.created, UTC),
            digest=hashlib.sha256(name.encode()).hexdigest(),
            architecture=info.architecture if info is not None else "unknown",
            parameters=info.parameters if info is not None else 0,
            quantisation=None,
            values={_TEMPLATE: info.chat_template} if info is not None and info.chat_template is not None else {},
        )

    def _stored(self, model: StoredModel) -> ModelEntry | None:
        """None for the served model, which is shown already, and for one that can't be read."""
        if self._app.model_path is not None and model.path.resolve() == self._app.model_path.resolve():
            return None
        try:
            return self._of_file(model_names.with_tag(model.name), model.path, model.bytes)
        except (ModelError, OSError) as error:
            structlog.get_logger().warning("a model in the store can't be read", model=model.name, error=str(error))
            return None

    def _of_file(self, name: str, path: Path, size: int) -> ModelEntry:
        changed = path.stat().st_mtime_ns
        key = (path, size, changed)
        if key not in self._read:
            self._read[key] = (read_header(path), _digest(path, size))
        header, digest = self._read[key]
        return ModelEntry(
            name=name,
            path=path,
            bytes=size,
            modified=datetime.fromtimestamp(changed / 1e9, UTC),
            digest=digest,
            architecture=header.facts.architecture,
            parameters=header.facts.parameters,
            quantisation=header.facts.quantisation,
            values=header.values,
        )


def _derived(name: str, entry: DerivedModel, base: ModelEntry) -> ModelEntry:
    """A model derived from ``base``."""
    digest = hashlib.sha256(base.digest.encode() + msgspec.json.encode(entry)).hexdigest()
    values = {**base.values, _TEMPLATE: entry.template} if entry.template else base.values
    return msgspec.structs.replace(
        base,
        name=model_names.with_tag(name),
        digest=digest,
        modified=entry.modified,
        values=values,
        entry=entry,
        parent=base.name,
    )


def description(model: ModelEntry, info: ModelInfo | None) -> dict[str, Any]:
    """The body of ``/api/show``; ``info`` is the engine's, for the served model."""
    template = str(model.values.get(_TEMPLATE) or "")
    defaults = {
        name: getattr(Sampling(), name) for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
    }
    entry = model.entry or DerivedModel(base="")
    parameters = {**({"num_ctx": info.context} if info is not None else {}), **defaults, **entry.parameters}
    parameter_rows = [
        (name, held) for name, value in parameters.items() for held in (value if isinstance(value, list) else [value])
    ]
    # The file's folder is private.
    lines = [f"FROM {model.parent or (model.path.name if model.path is not None else model.name)}"]
    lines += [f"TEMPLATE {quoted(entry.template)}"] if entry.template else []
    lines += [f"SYSTEM {quoted(entry.system)}"] if entry.system else []
    lines += [f"PARAMETER {name} {quoted(held) if isinstance(held, str) else held}" for name, held in parameter_rows]
    lines += [f"MESSAGE {message['role']} {quoted(message['content'])}" for message in entry.messages]
    lines += [f"LICENSE {quoted(text)}" for text in entry.license]
    values = {key: value for key, value in model.values.items() if key != _TEMPLATE}
    return {
        "modelfile": "\n".join(lines) + "\n",
        "parameters": "\n".join(f"{name:<30} {held}" for name, held in parameter_rows),
        "template": template,
        "details": model.details,
        "model_info": {
            **values,
            "general.architecture": model.architecture,
            "general.parameter_count": model.parameters,
        },
        "capabilities": _capabilities(model, template, info),
        "modified_at": model.modified,
        **({"system": entry.system} if entry.system else {}),
        **({"messages": entry.messages} if entry.messages else {}),
        **({"license": "\n".join(entry.license)} if entry.license else {}),
    }


def _capabilities(model: ModelEntry, template: str, info: ModelInfo | None) -> list[str]:
    """The model's capabilities, by its engine or else by its file."""
    generates = info.generates if info is not None else f"{model.architecture}.pooling_type" not in model.values
    if not generates:
        return ["embedding"]
    # Models whose template has no tools get them by a prompt (``chat/tool_prompting``).
    capabilities = ["completion", "tools"]
    if _thinks(template, info.special_tokens.values() if info is not None else ()):
        capabilities.append("thinking")
    if info.infill if info is not None else any(key in model.values for key in _FILL_KEYS):
        capabilities.append("insert")
    return capabilities


def _thinks(template: str, special_tokens: Iterable[str]) -> bool:
    """Whether the model has a thinking switch, or its family's reasoning markers, in its template or as tokens."""
    family = next(family for family in FAMILIES if family.matches_template(template))
    markers = {marker for thought in family.markup({}).thoughts for marker in thought}
    return any(word in template for word in (*_SWITCHES, *markers)) or not markers.isdisjoint(special_tokens)


def _digest(path: Path, size: int) -> str:
    """The SHA-256 that the catalogue knows of a file, or else one over 64 places of it: reading all of a large file may
    take minutes.
    """
    entry = CATALOGUE.get(path.parent.name)
    if entry is not None and (entry.file, entry.bytes) == (path.name, size):
        return entry.sha256
    return fingerprint(path)


def _count(parameters: int) -> str:
    """Parameters as Ollama writes them: ``134.52M``, ``8.0B``."""
    if parameters >= 1_000_000_000:
        return f"{parameters / 1e9:.1f}B"
    if parameters >= 1_000_000:
        return f"{parameters / 1e6:.2f}M"
    return str(parameters)
