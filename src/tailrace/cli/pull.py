"""``tailrace pull``: fetch a model of the catalogue into the local store."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tailrace.cli import console_output
from tailrace.errors import ModelError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.fetch import Stage, fetch
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL


def pull(
    name: Annotated[str, typer.Argument(help="A model of the catalogue.")] = STARTER_MODEL,
) -> None:
    """Fetch a model into the local store. Does nothing when it is there."""
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ModelError(
            f"tailrace can't fetch {name!r}; it knows {', '.join(CATALOGUE)}. Any other model: download its GGUF file "
            "and name the path, as in: tailrace serve path/to/model.gguf"
        )
    store = Store()
    before = store.find(name)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console_output.stderr(),
    )
    tasks = {stage: bar.add_task(stage, total=None, visible=False) for stage in ("download", "verify")}

    def progress(stage: Stage, done: int, total: int) -> None:
        bar.start()
        bar.update(tasks[stage], completed=done, total=total or None, visible=True)

    try:
        stored = fetch(entry, store, progress)
    finally:
        # Not started where nothing was fetched: stopping it then would still write an empty line.
        if bar.live.is_started:
            bar.stop()
    verb = "is here" if before == stored else "fetched"
    console_output.stdout().print(
        f"{name} {verb}: {console_output.size(stored.bytes)}, {entry.licence}, {stored.path}", soft_wrap=True
    )
