"""One benchmark: its question, its measurement, and the command that runs it alone."""

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
from benchmarks.harness.event_counter import CounterError
from benchmarks.harness.number_format import number, span
from benchmarks.harness.results import Figure, Plot, Result
from benchmarks.harness.servers import ServerError
from benchmarks.harness.side_process import SideProcessError
from tailrace.errors import TailraceError
from tailrace.loadtest.bench_client import BenchError
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings


class Unavailable(Exception):
    """The benchmark can't run on this machine; the text says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all sides of every benchmark share."""

    model: Path
    threads: int
    turns: int = 7
    kernels: str = "on"  #: the setting of tailrace's side; of the parts that compare with llama-server
    quick: bool = False  #: little work, only to see that it runs: the figures mean nothing

    def tokens(self, usual: int) -> int:
        """The length of a reply: ``usual``, or less with ``quick``."""
        return min(usual, 48) if self.quick else usual

    def streams(self, usual: Sequence[int]) -> Sequence[int]:
        """The stream counts to measure: ``usual``, or the first and the last with ``quick``."""
        return [usual[0], usual[-1]] if self.quick and len(usual) > 2 else usual


#: CPU seconds in each second that others may have before a result says so.
_STOLEN_PART = 0.01


@dataclass
class Measurements:
    """The figures, plots and notes of one measurement."""

    figures: list[Figure] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Benchmark:
    """``name`` is the module's name, ``question`` one sentence; ``measure`` may raise Unavailable."""

    name: str
    question: str
    measure: Callable[[Options], Measurements]

    def run(self, options: Options) -> Result:
        """Measure; the result includes the machine, the command and the duration."""
        started, stolen = time.monotonic(), machine.stolen_seconds()
        measured = self.measure(options)
        seconds, stolen = time.monotonic() - started, machine.stolen_seconds() - stolen
        if stolen > _STOLEN_PART * seconds:
            measured.notes.append(
                f"Other virtual machines took {stolen:.1f} CPU seconds in these {seconds:.0f} s: on a quiet machine "
                "times are shorter, long gaps above all."
            )
        if options.quick:
            measured.notes.append("Run with --quick, to see that it runs: these figures mean nothing.")
        return Result(
            benchmark=self.name,
            question=self.question,
            command=f"python -m benchmarks.{self.name}",
            figures=measured.figures,
            plots=measured.plots,
            notes=measured.notes,
            machine=machine.describe(options.model, options.threads),
            seconds=seconds,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--model", default=STARTER_MODEL, help="a GGUF file or a name in the store [the starter model]")
    parser.add_argument("--threads", type=int, default=0, help="threads that decode, of every side [as planned]")
    parser.add_argument(
        "--turns",
        type=int,
        default=None,
        help="turns of every side after one to warm up [7]; some benchmarks make several of one",
    )
    parser.add_argument(
        "--kernels",
        default="on",
        help="kernels of tailrace's side in llama_server and architectures: avx2 against a llama-server that is "
        "built for AVX2 [on]",
    )
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; figures mean nothing")
    parser.add_argument("--report", type=Path, default=Path("benchmarks-report"), help="folder of the results")


def read_options(parsed: argparse.Namespace) -> Options:
    """The options of the parsed command line. Raises ModelError for an unknown model."""
    turns = parsed.turns or (2 if parsed.quick else 7)
    threads = parsed.threads or make_plan(read_topology(), Settings()).replicas[0].decode.threads
    return Options(
        model=locate_model(parsed.model).path,
        threads=threads,
        turns=turns,
        kernels=parsed.kernels,
        quick=parsed.quick,
    )


def run_and_save(benchmarks: Sequence[Benchmark], options: Options, folder: Path) -> int:
    """Run one benchmark after the other and save each result. Returns the number of failed ones."""
    # SystemExit on SIGTERM, so that the servers end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    failed = 0
    for benchmark in benchmarks:
        console.rule(f"[bold]{benchmark.name}[/bold] {benchmark.question}", align="left")
        try:
            result = benchmark.run(options)
        except Unavailable as error:
            console.print(f"left out: {error}")
            continue
        except (BenchError, CounterError, ServerError, SideProcessError, TailraceError) as error:
            console.print(f"[red]failed:[/red] {error}", highlight=False)
            failed += 1
            continue
        results.save(result, folder)
        console.print(table(result.figures))
        for note in result.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
    return failed


def table(figures: Sequence[Figure]) -> Table:
    """The figures as a table for a terminal."""
    rows = Table(box=None, header_style="bold")
    rows.add_column("")
    for heading in ("median", "95 %", "range", "turns", "bound", ""):
        rows.add_column(heading, justify="right")
    for one in figures:
        bound = "" if one.bound is None else f"{'≤' if one.is_upper_bound else '≥'} {one.bound:g}"
        colour = {"met": "green", "missed": "red"}.get(one.verdict, "yellow")
        verdict = f"[{colour}]{one.verdict}[/{colour}]"
        median = f"{number(one.median)} {one.unit}"
        rows.add_row(one.label, median, span(one.interval), span((one.low, one.high)), str(one.turns), bound, verdict)
    return rows


def run_alone(benchmark: Benchmark) -> None:
    """The command of a benchmark's module: measure, print, save."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.name}", description=benchmark.question)
    add_options(parser)
    parsed = parser.parse_args()
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    sys.exit(1 if run_and_save([benchmark], options, parsed.report) else 0)
