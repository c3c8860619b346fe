"""One part of the benchmarks: a question, a measurement, and the command that runs it alone."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import machine, results
from benchmarks.harness.reader import ReaderError
from benchmarks.harness.results import Figure, Plot, Result
from benchmarks.harness.servers import ServerError
from benchmarks.harness.worker import WorkerError
from tailrace.errors import TailraceError
from tailrace.loadtest.client import BenchError
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.locate import resolve
from tailrace.settings import STARTER_MODEL, Settings


class NotHere(Exception):
    """The part can't be measured on this machine; says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all sides of every part share."""

    model: Path
    threads: int
    turns: int = 7
    quick: bool = False  #: little work, to see that it runs: its figures mean nothing

    def tokens(self, usual: int) -> int:
        """The length of a reply, where ``usual`` makes a steady figure."""
        return min(usual, 48) if self.quick else usual

    def streams(self, usual: Sequence[int]) -> Sequence[int]:
        """The numbers of streams to measure."""
        return [usual[0], usual[-1]] if self.quick and len(usual) > 2 else usual


@dataclass
class Findings:
    """What a measurement hands back."""

    figures: list[Figure] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """``name`` is the module's; ``question`` one sentence; ``measure`` may raise NotHere."""

    name: str
    question: str
    measure: Callable[[Options], Findings]

    def run(self, options: Options) -> Result:
        """Measure, and say on which machine, with which command and in which time."""
        begun = time.monotonic()
        findings = self.measure(options)
        if options.quick:
            findings.notes.append("Run with --quick, to see that it runs: these figures mean nothing.")
        return Result(
            part=self.name,
            question=self.question,
            command=f"python -m benchmarks.{self.name}",
            figures=findings.figures,
            plots=findings.plots,
            notes=findings.notes,
            machine=machine.describe(options.model, options.threads),
            seconds=time.monotonic() - begun,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every part understands."""
    parser.add_argument("--model", default=STARTER_MODEL, help="a GGUF file or a name in the store [the starter model]")
    parser.add_argument("--threads", type=int, default=0, help="threads that decode, of every side [as planned]")
    parser.add_argument(
        "--turns",
        type=int,
        default=None,
        help="turns of every side after one to warm up [7]; some parts make several of one",
    )
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; figures mean nothing")
    parser.add_argument("--report", type=Path, default=Path("benchmarks-report"), help="folder of the results")


def read_options(parsed: argparse.Namespace) -> Options:
    """Options from what ``add_options`` has read. Raises ModelError when there is no such model."""
    turns = parsed.turns or (2 if parsed.quick else 7)
    threads = parsed.threads or make_plan(read_topology(), Settings()).replicas[0].decode.threads
    return Options(model=resolve(parsed.model).path, threads=threads, turns=turns, quick=parsed.quick)


def run_and_save(parts: Sequence[Part], options: Options, folder: Path) -> int:
    """Run one part after the other and save each one's result; the number of those that failed."""
    # Ending by a signal must end the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    failed = 0
    for part in parts:
        console.rule(f"[bold]{part.name}[/bold] {part.question}", align="left")
        try:
            result = part.run(options)
        except NotHere as error:
            console.print(f"left out: {error}")
            continue
        except (BenchError, ReaderError, ServerError, WorkerError, TailraceError) as error:
            console.print(f"[red]failed:[/red] {error}", highlight=False)
            failed += 1
            continue
        results.save(result, folder)
        console.print(table(result.figures))
        for note in result.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
    return failed


def table(figures: Sequence[Figure]) -> Table:
    """The figures for a terminal."""
    shown = Table(box=None, header_style="bold")
    shown.add_column("")
    for heading in ("median", "95 %", "range", "turns", "bound", ""):
        shown.add_column(heading, justify="right")
    for one in figures:
        bound = "" if one.bound is None else f"{'≤' if one.at_most else '≥'} {one.bound:g}"
        colour = {"met": "green", "missed": "red"}.get(one.verdict, "yellow")
        verdict = f"[{colour}]{one.verdict}[/{colour}]"
        middle = f"{number(one.median)} {one.unit}"
        shown.add_row(one.what, middle, span(one.between), span((one.low, one.high)), str(one.turns), bound, verdict)
    return shown


def span(ends: tuple[float, float] | None) -> str:
    """From here to there; empty for None."""
    return "" if ends is None else f"{number(ends[0])} to {number(ends[1])}"


def number(value: float) -> str:
    """With as many digits as a measurement deserves."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def standalone(part: Part) -> None:
    """The command of a part's module: measure, print, save."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{part.name}", description=part.question)
    add_options(parser)
    parsed = parser.parse_args()
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    sys.exit(1 if run_and_save([part], options, parsed.report) else 0)
