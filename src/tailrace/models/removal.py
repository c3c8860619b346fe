"""Deletes models that tailrace has pulled. It changes no store of another program."""

from __future__ import annotations

from tailrace.errors import ModelError
from tailrace.models.derived_models import DerivedModels
from tailrace.models.pulls.ollama_layout import OllamaLayout, ollama_folder
from tailrace.models.reference import (
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    Reference,
    served_name,
)
from tailrace.models.store import Store


def remove_model(reference: Reference, store: Store | None = None) -> int:
    """Delete the model; the bytes that are free then. Raises ModelError, which says what else deletes it."""
    store = Store() if store is None else store
    if isinstance(reference, PathReference):
        raise ModelError(f"{reference} is a file of your own: delete it with rm")
    if isinstance(reference, HubReference):
        raise ModelError(
            f"{reference} is in the hub's cache, which other programs share: delete it with: "
            f"hf cache rm model/{reference.repo_id}"
        )
    if made := DerivedModels(store.folder).derived_from(served_name(reference)):
        raise ModelError(f"the model {made[0]} is made of {reference}: delete it first, over Ollama's API")
    freed = _remove_stored(reference, store) if isinstance(reference, NameReference) else None
    if freed is None:
        freed = _remove_pulled(reference, store)
    if freed is None:
        raise ModelError(
            f"tailrace's store has no {reference}. A model of Ollama's own store is deleted with: ollama rm "
            f"{str(reference).removeprefix('ollama:')}"
        )
    return freed


def _remove_stored(reference: NameReference, store: Store) -> int | None:
    """Delete a model of the store itself; the bytes that are free then, and None where it has none of the name."""
    if reference.tag not in (None, "latest"):
        return None
    stored = store.find(reference.name)
    if stored is None:
        return None
    store.remove(reference.name)
    return stored.bytes


def _remove_pulled(reference: NameReference | OllamaReference, store: Store) -> int | None:
    """The same of a model that was pulled from Ollama's registry."""
    if isinstance(reference, NameReference):
        reference = OllamaReference(model=reference.name, tag=reference.tag or "latest")
    folder = ollama_folder(store.folder)
    try:
        return OllamaLayout(folder).remove(reference)
    except OSError as error:
        raise ModelError(f"{reference} can't be deleted: {error}. Correct the rights of {folder}") from error
