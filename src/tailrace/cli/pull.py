"""``tailrace pull``: fetch a model from the catalogue, the Hugging Face hub or Ollama's registry."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.markup import escape

from tailrace.cli import console_output
from tailrace.cli.shown_pull import pull_shown
from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.pulls.pull import catalogue_model
from tailrace.models.reference import HubReference, NameReference, OllamaReference, Reference, parse_reference
from tailrace.settings import STARTER_MODEL


def pull_model(
    model: Annotated[
        str, typer.Argument(help="hf:ORG/REPO, hf:ORG/REPO:QUANT, ollama:MODEL:TAG, or a model of the catalogue.")
    ] = STARTER_MODEL,
) -> None:
    """Fetch a model. Does nothing when it is there; goes on where an earlier pull was stopped."""
    reference = parse_reference(model, os.environ.get("HF_ENDPOINT"))
    entry = catalogue_model(reference) if isinstance(reference, NameReference) else None
    if entry is None and not isinstance(reference, HubReference | OllamaReference):
        raise _no_source(reference)
    pulled = pull_shown(reference, f"tailrace pull {model}")
    verb = "is here" if pulled.present else "fetched"
    licence = f"{entry.licence}, " if entry is not None else ""
    console_output.stdout().print(
        f"{escape(model)} {verb}: {console_output.size(pulled.bytes)}, {licence}{escape(pulled.path)}", soft_wrap=True
    )


def _no_source(reference: Reference) -> ModelError:
    hint = f", as in ollama:{reference}" if isinstance(reference, NameReference) else ""
    return ModelError(
        f"tailrace can't fetch {str(reference)!r}; it knows {', '.join(CATALOGUE)}. Any other model: name where it is, "
        f"hf:ORG/REPO:QUANT or ollama:MODEL:TAG{hint}"
    )
