"""One model that is on this machine: where it is, and what a user types for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from tailrace.models.quant_choice import QuantFiles

#: ``folder`` is the one that ``models_dir`` names.
StoreName = Literal["tailrace", "folder", "huggingface", "ollama", "lm-studio", "llama.cpp"]


class FoundModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in a store. Its header hasn't been read, so the file may be damaged."""

    store: StoreName
    reference: str  #: what a user types
    name: str  #: what clients call it where no alias is set
    path: Path  #: its file, of several shards the first; a link stays one
    bytes: int  #: of all shards
    quant: str | None = None  #: as a name says; the header may know more
    #: The repository of the hub that it comes from, as ORG/REPO; its files have their paths in it.
    repository: str | None = None
    files: QuantFiles | None = None
    revision: str | None = None  #: the repository's commit
    projector: Path | None = None  #: the file of its image or audio part
    adapters: tuple[Path, ...] = ()
    unused: tuple[str, ...] = ()  #: what the store says of it that isn't used here: ``template`` (in Go), ``messages``
    system: str = ""  #: the store's system prompt
    parameters: dict[str, Any] = {}  #: the store's sampling parameters, by Ollama's names
    licence: str = ""
    problem: str | None = None  #: why it can't be used


class StoreContents(msgspec.Struct, frozen=True, kw_only=True):
    """What one store has."""

    store: StoreName
    folder: Path
    models: tuple[FoundModel, ...] = ()
    problems: tuple[str, ...] = ()  #: what couldn't be read, for a user
