"""tailrace's own store, as the other stores are read: a folder for each model, with its file."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ModelError
from tailrace.models.quant_choice import quant_of
from tailrace.models.store import Store
from tailrace.models.stores.found_model import FoundModel, StoreContents


def read_own_store(folder: Path | None = None) -> StoreContents:
    """The store's models."""
    store = Store(folder)
    try:
        found = store.models()
    except ModelError as error:
        return StoreContents(store="tailrace", folder=store.folder, problems=(str(error),))
    models = tuple(
        FoundModel(
            store="tailrace",
            reference=model.name,
            name=model.name,
            path=model.path,
            bytes=model.bytes,
            quant=quant_of(model.path.name),
        )
        for model in found
    )
    return StoreContents(store="tailrace", folder=store.folder, models=models)
