"""The list of models: the served ones, models derived from them and, with ``manage_models``, those in the store.

It reads files, so handlers call it on a thread. It changes nothing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.generation_params import Sampling
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.derived_models import DerivedModel
from tailrace.models.file_fingerprint import fingerprint
from tailrace.models.model_header import Value, read_header
from tailrace.models.model_summary import ModelSummary, summarise
from tailrace.models.pulls.ollama_layout import ollama_folder
from tailrace.models.shards import total_bytes
from tailrace.models.store import Store, StoredModel, is_name
from tailrace.models.stores.ollama_store import read_ollama_store
from tailrace.protocol import ModelInfo
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama import model_names
from tailrace.server.dialects.ollama.modelfile import quoted
from tailrace.server.models.model_service import ModelService
from tailrace.serving.model_abilities import FILL_KEYS, RANK, thinks

_TEMPLATE = "tokenizer.chat_template"


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
    entry: DerivedModel | None = None  #: a derived model's own; else the settings' defaults of requests
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
        #: The header's summary and the digest of a file, by path, size and modification time.
        self._read: dict[tuple[Path, int, int], tuple[ModelSummary, str]] = {}

    def models(self) -> list[ModelEntry]:
        """Every model that the caller's key may use, the served ones first."""
        directory = self._app.models
        served = {service.name: self.served(service) for service in directory.services}
        shown = list(served.values())
        if self._app.settings.manage_models:
            stored_models = (*self._store.models(), *self._pulled().values())
            shown += [model for stored in stored_models if (model := self._stored(stored)) is not None]
        bases = {model.name: model for model in shown}
        for name, entry in directory.derived.items():
            if (service := directory.base(entry.base)) is not None:
                shown.append(_derived(name, entry, served[service.name]))
            elif (base := bases.get(model_names.with_tag(entry.base))) is not None:
                shown.append(_derived(name, entry, base))
        return [model for model in shown if directory.may_use(model.name)]

    def find(self, name: str) -> ModelEntry:
        """The model of this name. Raises ModelNotFound, also where the caller's key may not use it."""
        if not self._app.models.may_use(name):
            raise model_names.not_served(self._app, name)
        return self._find(name)

    def _find(self, name: str) -> ModelEntry:
        directory = self._app.models
        if (service := directory.own(name)) is not None:
            return self.served(service)
        store_name = model_names.without_tag(name)
        if (entry := directory.derived.get(store_name)) is not None:
            base = directory.base(entry.base)
            return _derived(store_name, entry, self._find(entry.base) if base is None else self.served(base))
        if self._app.settings.manage_models:
            stored = self.stored(name)
            if stored is not None and (shown := self._stored(stored)) is not None:
                return shown
        if (found := directory.find(name)) is None:
            raise model_names.not_served(self._app, name)
        base_entry = self.served(found.service)
        return base_entry if found.derived is None else _derived(store_name, found.derived, base_entry)

    def stored(self, name: str) -> StoredModel | None:
        """The model of this name in the store, with its own folder or from Ollama's registry."""
        bare = model_names.without_tag(name)
        return (self._store.find(bare) if is_name(bare) else None) or self._pulled().get(bare)

    def _pulled(self) -> dict[str, StoredModel]:
        """The store's models from Ollama's registry, by their names."""
        found = read_ollama_store(ollama_folder(self._store.folder), "tailrace").models
        usable = (model for model in found if model.problem is None)
        return {model.name: StoredModel(name=model.name, path=model.path, bytes=model.bytes) for model in usable}

    def is_served(self, stored: StoredModel) -> bool:
        """Whether a served model has this model's folder open, under whatever name."""
        services = self._app.models.services
        used = [path for service in services for path in (service.path, service.spec.settings.draft_model)]
        file, folder = stored.path.resolve(), stored.path.parent.resolve()
        paths = [Path(path).resolve() for path in used if path is not None]
        if is_name(stored.path.parent.name) and self._store.find(stored.path.parent.name) is not None:
            return any(path == file or path.parent == folder for path in paths)
        return file in paths  # A folder of blobs is that of all models from Ollama's registry.

    def served(self, service: ModelService) -> ModelEntry:
        """A served model."""
        name, path, info = model_names.with_tag(service.name), service.path, service.info
        if path is not None:
            try:
                shown = self._of_file(name, path, total_bytes(path))
                shown = msgspec.structs.replace(shown, entry=service.defaults)
                if info is None or service.spec.settings.chat_template is None:
                    return shown
                # Show the template that is used, not the file's.
                return msgspec.structs.replace(shown, values={**shown.values, _TEMPLATE: info.chat_template or ""})
            except (ModelError, OSError) as error:
                # The file was deleted; the engine runs on with the mapped one.
                structlog.get_logger().warning("a served model's file can't be read", error=str(error))
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
        """None for a served model, which is shown already, and for one that can't be read."""
        served = (service.path for service in self._app.models.services if service.path is not None)
        if any(path.resolve() == model.path.resolve() for path in served):
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
            self._read[key] = (summarise(read_header(path)), _digest(path, size))
        summary, digest = self._read[key]
        return ModelEntry(
            name=name,
            path=path,
            bytes=size,
            modified=datetime.fromtimestamp(changed / 1e9, UTC),
            digest=digest,
            architecture=summary.facts.architecture,
            parameters=summary.facts.parameters,
            quantisation=summary.facts.quantisation,
            values=summary.values,
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
    pooling = model.values.get(f"{model.architecture}.pooling_type")
    if not (info.generates if info is not None else pooling is None):
        ranks = info.rank_score is not None if info is not None else pooling == RANK
        # Ollama has no word for rerankers: it serves none.
        return ["rerank"] if ranks else ["embedding"]
    # Models whose template has no tools get them by a prompt (``chat/tool_prompting``).
    capabilities = ["completion", "tools"]
    if thinks(template, info.special_tokens.values() if info is not None else ()):
        capabilities.append("thinking")
    if info.infill if info is not None else any(key in model.values for key in FILL_KEYS):
        capabilities.append("insert")
    return capabilities


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
