"""A pull whose progress is shown, and which Ctrl-C ends with a word on how it goes on."""

from __future__ import annotations

import typer
from rich.markup import escape

from tailrace.cli import console_output
from tailrace.cli.pull_display import pull_display
from tailrace.machine.free_memory import read_memory
from tailrace.models.pulls.progress import Pulled
from tailrace.models.pulls.pull import pull
from tailrace.models.reference import NameReference, Reference

#: The exit status that a shell shows for a program that Ctrl-C ended.
_INTERRUPTED = 130


def pull_shown(reference: Reference, again: str) -> Pulled:
    """Pull the model. ``again`` is the command that goes on after Ctrl-C, which ends this one. Raises ModelError."""
    display = pull_display()
    try:
        return pull(reference, display.show, memory=read_memory().total)
    except KeyboardInterrupt:
        display.end()
        # pip keeps nothing of a model of the catalogue.
        rest = "" if isinstance(reference, NameReference) else ", which goes on where it ended"
        console_output.stderr().print(f"Stopped. Pull again with: {escape(again)}{rest}", soft_wrap=True)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        display.end()
