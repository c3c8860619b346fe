"""All stores of this machine: what they have, and the model of a reference."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from tailrace.errors import ModelError
from tailrace.models.pulls.ollama_layout import ollama_folder
from tailrace.models.quant_choice import FileSize, choose_quant
from tailrace.models.reference import HubReference, NameReference, OllamaReference, Reference, name_key, served_name
from tailrace.models.stores.found_model import FoundModel, StoreContents, StoreName
from tailrace.models.stores.hub_cache import read_hub_cache, revision_models
from tailrace.models.stores.llama_cache import read_llama_cache
from tailrace.models.stores.lm_studio import lm_studio_folders, read_lm_studio
from tailrace.models.stores.models_folder import read_models_folder
from tailrace.models.stores.ollama_store import ollama_folders, read_ollama_store
from tailrace.models.stores.own_store import read_own_store

#: The stores in the order in which a reference is looked up.
STORES: tuple[StoreName, ...] = ("tailrace", "folder", "huggingface", "ollama", "lm-studio", "llama.cpp")


class NotHere(ModelError):
    """The reference is right, and the model isn't on this machine, or not whole. It can be pulled."""

    def __init__(self, message: str, reference: Reference) -> None:
        super().__init__(message)
        self.reference = reference


def read_stores(
    models_dir: str | None = None, *, stores: Collection[StoreName] = STORES, repository: str | None = None
) -> list[StoreContents]:
    """What the stores have, in the order of ``STORES``. ``repository``: of the Hugging Face cache only this one."""
    contents: list[StoreContents] = []
    for store in STORES:
        if store in stores:
            contents += _read(store, models_dir, repository)
    seen: set[tuple[bool, Path]] = set()
    return [each for each in contents if not _is_repeated(each, seen)]


def _read(store: StoreName, models_dir: str | None, repository: str | None) -> list[StoreContents]:
    match store:
        case "tailrace":
            return [read_own_store(), read_ollama_store(ollama_folder(), "tailrace")]
        case "folder":
            return [read_models_folder(Path(models_dir))] if models_dir is not None else []
        case "huggingface":
            return [read_hub_cache(repository=repository)]
        case "ollama":
            return [read_ollama_store(folder) for folder in ollama_folders()]
        case "lm-studio":
            return [read_lm_studio(folder) for folder in lm_studio_folders()]
        case "llama.cpp":
            return [read_llama_cache()]


def _is_repeated(contents: StoreContents, seen: set[tuple[bool, Path]]) -> bool:
    """Whether another store of the same layout has the same folder, as where LLAMA_CACHE is the Hugging Face cache."""
    own = contents.store in ("huggingface", "llama.cpp"), Path(os.path.realpath(contents.folder))
    if own in seen:
        return True
    seen.add(own)
    return False


def find_in_stores(
    reference: HubReference | OllamaReference | NameReference, contents: Iterable[StoreContents], *, memory: int | None
) -> FoundModel | None:
    """The model of the reference; None where no store has it. ``memory``: bytes by which a quantisation is chosen where
    none is named; None: any.

    Raises NotHere where a store has the repository, but not the named quantisation or file, or not whole, and
    ModelError for a model that can't be used.
    """
    contents = list(contents)
    if isinstance(reference, HubReference):
        found = _find_repository(reference, contents, memory)
        if found is not None:
            return _usable(found)
        if reference.revision is not None:
            return None  # Names don't have it: a model of the name may be of another revision.
    # An unprefixed ``user/model:tag`` reads as the hub's, and may be Ollama's.
    name = served_name(reference)
    models = [model for store in contents for model in store.models if name_key(model.name) == name_key(name)]
    # Another store may have a whole one, and another case may be another model.
    ordered = sorted(models, key=lambda model: (model.name != name, model.problem is not None))
    return _usable(ordered[0]) if ordered else None


def _find_repository(reference: HubReference, contents: list[StoreContents], memory: int | None) -> FoundModel | None:
    repo_id = reference.repo_id.casefold()
    missing: ModelError | None = None
    for store in contents:
        own = [model for model in store.models if model.repository is not None and model.files is not None]
        models = [model for model in own if model.repository is not None and model.repository.casefold() == repo_id]
        if models and reference.revision is not None:
            # Other stores don't know of which revision their files are.
            models = (
                revision_models(store, models[0].repository or "", reference.revision)
                if store.store in ("huggingface", "llama.cpp")
                else []
            )
        if not models:
            continue
        by_file = {file.path: model for model in models if model.files is not None for file in model.files.files}
        try:
            chosen = choose_quant(_named_files(models), quant=reference.quant, file=reference.file, memory=memory)
        except ModelError as error:
            missing = missing or ModelError(f"{reference.repo_id} in {store.folder}: {error}")
            continue
        return by_file[chosen.files[0].path]
    if missing is not None:
        raise NotHere(f"{missing}. Fetch it with: tailrace pull {reference}", reference)
    return None


def _named_files(models: list[FoundModel]) -> list[FileSize]:
    return [file for model in models if model.files is not None for file in model.files.files]


def _usable(found: FoundModel) -> FoundModel:
    """Raises ModelError for a model that can't be used."""
    if found.problem is not None:
        raise ModelError(f"{found.reference} is in {found.store}'s store, and can't be used: {found.problem}")
    return found
