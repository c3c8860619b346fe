"""``tailrace tune``: measure a model's settings on this machine, show them, and remember what won."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tailrace.cli import console_output
from tailrace.cli.model_argument import find_model
from tailrace.engine.weights.file_choice import ReportProgress, select_weights_file
from tailrace.errors import ConfigurationError
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import TuningRecord, TuningStore
from tailrace.models.file_fingerprint import fingerprint
from tailrace.observe import logs
from tailrace.serving.device_list import device_key
from tailrace.settings import Resolved, Settings, resolve
from tailrace.tuning.placement_search import search_placements
from tailrace.tuning.settings_search import STAGES, SettingsSearch

_INTERRUPTED = 130
#: The stage that ``SettingsSearch`` doesn't have: it measures on the devices, the others on this machine alone.
PLACEMENT = "placement"
#: Load per core from which other processes disturb the measurements.
_BUSY = 0.5


def tune(
    model: Annotated[str | None, typer.Argument(help="A path, a name, hf:ORG/REPO:QUANT, ollama:MODEL:TAG.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Measure this alone; may repeat: {', '.join(STAGES)}.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights to measure the other settings with, as in serve [as-is].")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Measure placements on these, as in serve: local,HOST:PORT,...")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer values and rounds: a first idea.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Measure MODEL's threads, poll level, prompt pieces and weight formats here; serve uses what won.

    Settings that you set yourself stay as they are and aren't measured. Weights change only where serve is asked to.
    """
    resolved = resolve({"model": model, "weights": weights, "devices": devices}, file=config)
    settings = resolved.settings
    logs.configure("tune", level="warning", form=settings.log_format)
    stages = _stages(only, resolved)
    path = find_model(settings).path
    busy, cores = os.getloadavg()[0], len(read_topology().usable_cores)
    if busy > _BUSY * cores:
        console_output.stderr().print(
            f"[yellow]the machine is busy (load {busy:.1f} on {cores} cores): what wins now may not later[/yellow]",
            soft_wrap=True,
        )
    signal.signal(signal.SIGINT, _leave)  # llama.cpp's code can't be left in an orderly way.
    with _progress() as tell:
        file = select_weights_file(path, settings, tell)
        alone = msgspec.structs.replace(settings, devices=None, placement=None)
        own_stages = tuple(each for each in stages if each != PLACEMENT)
        tuned = SettingsSearch(path, alone, stages=own_stages, quick=quick, report=tell).run(file)
        if PLACEMENT in stages:
            tuned = _with_placement(tuned, file, settings, quick=quick, report=tell)
        store, topology, release = TuningStore(), read_topology(), version("llama-cpp-python")
        identity = fingerprint(path)
        before = store.find(identity, topology, release)
        if before is not None and before.usable == tuned.usable:
            # What wasn't measured this time is still true.
            tuned = msgspec.structs.replace(
                tuned,
                settings=before.settings | tuned.settings,
                weights=before.weights | tuned.weights,
                placements=before.placements | tuned.placements,
            )
        saved_path = store.save(tuned, identity, topology, release)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(tuned)).decode())
        return
    _show(tuned)
    console = console_output.stdout()
    remembered: dict[str, object] = {
        **tuned.settings,
        **{f"weights {aim}": name for aim, name in tuned.weights.items()},
        **{f"placement on {names}": rules or "as planned" for names, rules in tuned.placements.items()},
    }
    console.print("remembered: " + ", ".join(f"{name} {value}" for name, value in remembered.items()), soft_wrap=True)
    console.print(str(saved_path), soft_wrap=True)


def _stages(only: list[str] | None, resolved: Resolved) -> tuple[str, ...]:
    """The stages to measure: those of ``only``, or all whose settings have their defaults."""
    unknown = sorted(set(only or ()) - {*STAGES, PLACEMENT})
    if unknown:
        raise ConfigurationError(f"--only can't be {unknown[0]}: choose from {', '.join((*STAGES, PLACEMENT))}")
    if resolved.settings.devices is None and PLACEMENT in (only or ()):
        raise ConfigurationError("--only is placement, and no devices are set: add --devices")
    if resolved.settings.devices is not None and not only:
        return (PLACEMENT,)
    set_by = {
        stage: next((resolved.origins[name] for name in names if resolved.origins[name] != "default"), None)
        for stage, names in {
            "threads": ("threads", "threads_prefill"),
            "poll": ("poll",),
            "prefill_chunk": ("prefill_chunk",),
        }.items()
    }
    for stage in only or ():
        if set_by.get(stage) is not None:
            raise ConfigurationError(f"{stage} is set ({set_by[stage]}): tune measures what isn't. Unset it")
    stages = (*STAGES, PLACEMENT) if PLACEMENT in (only or ()) else STAGES
    return tuple(stage for stage in stages if (not only or stage in only) and set_by.get(stage) is None)


def _with_placement(
    tuned: TuningRecord, file: Path, settings: Settings, *, quick: bool, report: ReportProgress
) -> TuningRecord:
    """The record with the fastest placement on the settings' devices. The plan's own needs no rules."""
    assert settings.devices is not None
    rules, rows = search_placements(file, settings, quick=quick, report=report)
    return msgspec.structs.replace(
        tuned, placements={device_key(settings.devices): rules or {}}, rows=(*tuned.rows, *rows)
    )


def _show(tuned: TuningRecord) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SETTING", "VALUE", "READ", "1", "8", "×", ""):
        words = heading in {"SETTING", "VALUE", ""}
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "")
    before = ""
    for row in tuned.rows:
        figures = [f"{figure:.0f}" if figure else "" for figure in row.figures] or ["", "", ""]
        ratio = f"{row.ratio:.2f}" if row.ratio else ""
        name = "" if row.setting == before else row.setting
        before = row.setting
        value = f"{'→' if row.chosen else ' '} {row.value}"
        table.add_row(name, value, *figures, ratio, escape(row.why), style="bold green" if row.chosen else None)
    console = console_output.stdout()
    console.print(f"{escape(tuned.model)} on {escape(tuned.machine)}, CPUs {tuned.usable}", soft_wrap=True)
    console.print(
        "Tokens a second: reading prompts, one stream, eight; × is the score against the usual value", soft_wrap=True
    )
    console.print(table)


@contextmanager
def _progress() -> Iterator[ReportProgress]:
    console = console_output.stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, part: progress.update(task, description=f"{what:24}", completed=part)


def _leave(_: int, __: object) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # The progress bar hides the cursor.
    os._exit(_INTERRUPTED)
