"""Finds the file of a model that a user names, on this machine. It fetches nothing.

``reference`` is the grammar; the stores are in ``stores``.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.quant_choice import is_projector_name
from tailrace.models.reference import (
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    Reference,
    parse_reference,
)
from tailrace.models.shards import model_name, read_shards, shard_paths
from tailrace.models.store import Store
from tailrace.models.stores.all_stores import NotHere, find_in_stores, read_stores
from tailrace.models.stores.found_model import FoundModel
from tailrace.models.stores.models_folder import read_models_folder

__all__ = ["ModelFile", "NotHere", "locate_model"]

_MAGIC = b"GGUF"
#: Names that a message lists.
_MAX_LISTED = 20


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file, which exists, and its name for clients where no alias is set."""

    path: Path  #: of several shards the first
    name: str
    found: FoundModel | None = None  #: what its store says; None for a path, and for tailrace's own store


def locate_model(
    model: str, store: Store | None = None, *, models_dir: str | None = None, memory: int | None = None
) -> ModelFile:
    """The file of ``model``, a reference as docs/models.md has them.

    ``models_dir``: a folder whose models have names, too. ``memory``: bytes by which a quantisation is chosen where the
    reference names none. Raises NotHere for a model that can be pulled, and ModelError, which lists the models that
    are here, or names a missing shard.
    """
    store = Store() if store is None else store
    reference = parse_reference(model, os.environ.get("HF_ENDPOINT"))
    try:
        if isinstance(reference, PathReference) or _is_path(model, reference):
            return _at_path(Path(model).expanduser(), store)
    except (OSError, RuntimeError) as error:  # A folder without rights, a name that is too long, an unknown ~user.
        raise ModelError(f"{model} can't be read: {error}") from error
    if isinstance(reference, NameReference):
        name = str(reference).removesuffix(":latest")
        if ":" not in name and (stored := store.find(name)) is not None:
            return ModelFile(path=stored.path, name=name)
    repository = reference.repo_id if isinstance(reference, HubReference) else None
    found = find_in_stores(reference, read_stores(models_dir, repository=repository), memory=memory)
    if found is not None:
        return ModelFile(path=found.path, name=found.name, found=found)
    if not isinstance(reference, NameReference) or reference.name in CATALOGUE:
        raise NotHere(f"the model {reference} isn't here yet. Fetch it with: tailrace pull {reference}", reference)
    raise ModelError(f"there is no model {model!r}. {_choices(store, models_dir)}")


def _is_path(model: str, reference: Reference) -> bool:
    """Whether text that could be another reference is a file or a folder here. Text with a prefix never is."""
    if model.partition(":")[0].lower() in ("hf", "ollama", "http", "https"):
        return False
    if isinstance(reference, HubReference | OllamaReference):
        return Path(model).exists()
    return Path(model).is_file() and _is_gguf(Path(model))


def _at_path(path: Path, store: Store) -> ModelFile:
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no file {path}. {_choices(store, None)}")
    if path.suffix.lower() != ".gguf" and not _is_gguf(path):
        raise ModelError(f"{path} isn't a model: it is no GGUF file")
    if is_projector_name(path.name):
        raise ModelError(f"{path} is the image or audio part of a model. Name the model's own file")
    # A link keeps its own name: a hub's cache links shards to files with other names.
    path = path.parent.resolve() / path.name
    files = read_shards(path).paths if len(shard_paths(path)) > 1 else (path,)
    return ModelFile(path=files[0], name=model_name(path) if len(files) > 1 else path.stem)


def _in_folder(folder: Path) -> ModelFile:
    """The only model of a folder."""
    contents = read_models_folder(folder)
    models = contents.models
    if len(models) != 1:
        listed = ", ".join(str(model.path) for model in models[:_MAX_LISTED])
        raise ModelError(
            f"{folder} has {len(models)} models: name one of {listed}; or serve all with: --models-dir {folder}"
            if models
            else f"{folder} has no model: there is no .gguf file in it"
        )
    if models[0].problem is not None:
        raise ModelError(f"{models[0].path} can't be used: {models[0].problem}")
    return ModelFile(path=models[0].path, name=models[0].name, found=models[0])


def _is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do: Ollama's have no ending."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error}") from error


def _choices(store: Store, models_dir: str | None) -> str:
    stored = [model.name for model in store.models()]
    others = [
        model.reference
        for contents in read_stores(models_dir)
        for model in contents.models
        if model.problem is None and model.name not in stored
    ]
    names = [*stored, *dict.fromkeys(others)]
    more = f" and {len(names) - _MAX_LISTED} more (tailrace list)" if len(names) > _MAX_LISTED else ""
    here = f"Models here: {', '.join(names[:_MAX_LISTED])}{more}" if names else "There are no models here"
    fetchable = ", ".join(f"tailrace pull {name}" for name in CATALOGUE if name not in stored)
    return f"{here}. " + (f"Fetch one ({fetchable}), or name" if fetchable else "Name") + " a path to a .gguf file"
