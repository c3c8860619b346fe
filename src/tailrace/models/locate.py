"""From what a user calls a model to its file: a path, or a name in the local store. Fetches nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.shards import model_name, read_shards, shard_paths
from tailrace.models.store import Store, is_name


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file, which exists, and the name that clients know it by when no alias is set."""

    path: Path  #: of several shards the first
    name: str


def resolve(model: str, store: Store | None = None) -> ModelFile:
    """The file that ``model`` stands for: a path to a .gguf file or to any of its shards (then the name is its stem,
    without the number of the shard), or a stored name.

    Raises ModelError, saying which models there are and how to fetch one, or which shard is missing.
    """
    store = Store() if store is None else store
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}. {_choices(store)}")
        # The link's own name, where it is one: a hub's cache links shards to files that are named otherwise.
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
