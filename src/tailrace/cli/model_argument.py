"""The model that a command's settings name: where it is, and how it is fetched where it isn't here."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from tailrace.cli import console_output
from tailrace.cli.shown_pull import pull_shown
from tailrace.machine.free_memory import read_memory
from tailrace.models.model_reference import ModelFile, NotHere, locate_model
from tailrace.models.reference import HubReference, OllamaReference, served_name
from tailrace.settings import STARTER_MODEL, Settings


def find_model(settings: Settings) -> ModelFile:
    """The model of the setting ``model``. Raises ModelError, which says how to fetch one that isn't here."""
    return locate_model(settings.model, models_dir=settings.models_dir, memory=read_memory().total)


def find_or_fetch(settings: Settings) -> ModelFile:
    """The model of the setting ``model``, which is fetched first where it isn't here. A model of the catalogue is not,
    because its name doesn't say where it comes from. The starter model is: it is served where no model is named. Raises
    ModelError.
    """
    try:
        return find_model(settings)
    except NotHere as missing:
        reference = missing.reference
        if not isinstance(reference, HubReference | OllamaReference) and str(reference) != STARTER_MODEL:
            raise
    console_output.stderr().print(f"{escape(str(reference))} isn't here: fetching it", soft_wrap=True)
    pulled = pull_shown(reference, f"tailrace pull {reference}")
    try:
        return find_model(settings)
    except NotHere:  # It is in a folder that no store has, such as one that a variable has moved meanwhile.
        return ModelFile(path=Path(pulled.path), name=served_name(reference))
