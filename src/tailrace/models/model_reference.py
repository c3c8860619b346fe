"""Finds the file of a model that a user names by its path or by its name in the store. It fetches nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.shards import model_name, read_shards, shard_paths
from tailrace.models.store import Store, is_name


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file, which exists, and its name for clients where no alias is set."""

    path: Path  #: of several shards the first
    name: str


def locate_model(model: str, store: Store | None = None) -> ModelFile:
    """The file of ``model``: a path to a .gguf file or to any of its shards, or a name in the store.

    The model's name is then the file's stem without the shard's number, or the stored name. Raises ModelError, which
    lists the models and how to fetch one, or names the missing shard.
    """
    store = Store() if store is None else store
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}. {_choices(store)}")
        # A link keeps its own name: a hub's cache links shards to files with other names.
        path = path.parent.resolve() / path.name
        files = read_shards(path).paths if len(shard_paths(path)) > 1 else (path,)
        return ModelFile(path=files[0], name=model_name(path) if len(files) > 1 else path.stem)
    if path.is_file():
        raise ModelError(f"{path} isn't a model: its name has to end in .gguf")
    if is_name(model) and (stored := store.find(model)) is not None:
        return ModelFile(path=stored.path, name=model)
    if model in CATALOGUE:
        raise ModelError(f"the model {model} isn't here yet. Fetch it with: tailrace pull {model}")
    raise ModelError(f"there is no model {model!r}. {_choices(store)}")


def _choices(store: Store) -> str:
    stored = [model.name for model in store.models()]
    here = f"In the store: {', '.join(stored)}" if stored else "The store is empty"
    fetchable = ", ".join(f"tailrace pull {name}" for name in CATALOGUE if name not in stored)
    return f"{here}. " + (f"Fetch one ({fetchable}), or name" if fetchable else "Name") + " a path to a .gguf file"
