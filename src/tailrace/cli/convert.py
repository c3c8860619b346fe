"""``tailrace convert``: a model in another weight format, with what that costs and gives."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tailrace.cli import console_output
from tailrace.cli.model_argument import find_model
from tailrace.engine.weights.file_choice import ReportProgress, convert_weights, format_for_aim
from tailrace.errors import ModelError
from tailrace.models.conversion_formats import AIMS, find_conversion_format
from tailrace.models.converted_files import ConvertedFile
from tailrace.models.format_comparison import FormatComparison
from tailrace.observe import logs
from tailrace.settings import resolve

_INTERRUPTED = 130


def convert(
    model: Annotated[str | None, typer.Argument(help="A path, a name, hf:ORG/REPO:QUANT, ollama:MODEL:TAG.")] = None,
    to: Annotated[
        str, typer.Option(help="near-lossless, fast, or a format such as Q8_0, Q4_0-KV8, IQ4_NL or Q4_K_M.")
    ] = "fast",
    target: Annotated[Path | None, typer.Option("--output", help="Also copy the converted file to this path.")] = None,
    threads_prefill: Annotated[int | None, typer.Option(help="Threads that convert [planned].")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Convert MODEL's weights, and measure how far it then is from the original and how fast.

    The result is kept for `tailrace serve --weights`, and found again instead of made again.
    """
    settings = resolve({"model": model, "threads_prefill": threads_prefill}, file=config).settings
    logs.configure("convert", level="warning", form=settings.log_format)
    path = find_model(settings).path
    if target is not None and target.exists():
        raise ModelError(f"{target} is there already. Name another --output, or remove it")
    signal.signal(signal.SIGINT, _leave)  # llama.cpp's code can't be left in an orderly way.
    weight_format = format_for_aim(path, to) if to in AIMS else find_conversion_format(to)
    if weight_format is None:
        console_output.stdout().print(
            f"serve --weights {to} keeps the file as it is: tailrace tune found no better format"
        )
        return
    with _progress() as tell:
        made, comparison = convert_weights(path, weight_format, settings, tell)
        if target is not None:
            tell(f"copying to {target.name}", 0.0)
            _copy(made.path, target)
    _show(made, comparison)
    console = console_output.stdout()
    if to in AIMS:
        why = comparison.rejection_reason(to)
        console.print(
            f"serve --weights {to} uses it" if why is None else f"serve --weights {to} keeps the file as it is: {why}",
            soft_wrap=True,
        )
    console.print(str(target or made.path), soft_wrap=True)


def _show(made: ConvertedFile, comparison: FormatComparison) -> None:
    lost, before, after = comparison.quality, comparison.before, comparison.after
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "ORIGINAL", made.weight_format.name.upper(), ""):
        table.add_column(heading, justify="left" if heading == "" else "right")
    table.add_row("size", console_output.size(made.bytes_before), console_output.size(made.bytes), "")
    table.add_row("perplexity", f"{lost.perplexity_before:.2f}", f"{lost.perplexity:.2f}", f"{lost.tokens} tokens")
    table.add_row("KL divergence", "", f"{lost.divergence:.4f}", f"nats on average, p99 {lost.divergence_p99:.3f}")
    table.add_row("same likeliest token", "", f"{100 * lost.same_top:.1f} %", "")
    rows = ("reading, tok/s", "one stream, tok/s", f"{after.streams} streams, tok/s")
    figures = zip(
        (before.prefill, before.decode, before.decode_batched),
        (after.prefill, after.decode, after.decode_batched),
        after.ratios_to(before),
        strict=True,
    )
    for name, (old, new, ratio) in zip(rows, figures, strict=True):
        table.add_row(name, f"{old:.0f}", f"{new:.0f}", f"× {ratio:.2f}")
    table.add_row("converted in", "", f"{made.seconds:.1f} s", "")
    console_output.stdout().print(table)


def _copy(source: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, draft)
        os.replace(draft, target)
    except OSError as error:
        raise ModelError(f"{target} can't be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _progress() -> Iterator[ReportProgress]:
    console = console_output.stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, part: progress.update(task, description=what, completed=part)


def _leave(_: int, __: object) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # The progress bar hides the cursor.
    os._exit(_INTERRUPTED)
