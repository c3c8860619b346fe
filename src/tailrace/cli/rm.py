"""``tailrace rm``: delete a model from tailrace's own store."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.markup import escape

from tailrace.cli import console_output
from tailrace.models import removal
from tailrace.models.reference import parse_reference


def remove_model(
    model: Annotated[str, typer.Argument(help="A name in tailrace's store, or ollama:MODEL:TAG.")],
) -> None:
    """Delete a model that tailrace has pulled."""
    freed = removal.remove_model(parse_reference(model, os.environ.get("HF_ENDPOINT")))
    console_output.stdout().print(f"{escape(model)} deleted: {console_output.size(freed)}", soft_wrap=True)
