"""``tailrace bench``: a server under load, the engine alone under the same load, or both in turns."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tailrace.cli.model_argument import find_model
from tailrace.cli.tuned_settings import resolve_tuned
from tailrace.errors import TailraceError
from tailrace.loadtest.bench_client import BenchClient, BenchError
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import LoadStats, StreamTiming, load_stats, median_stats
from tailrace.observe import logs
from tailrace.own_process.parent_death import die_with_parent
from tailrace.settings import Settings
from tailrace.tuning.engine_bench import EngineTurn


class Comparison(msgspec.Struct, frozen=True):
    """API and engine under the same load, in turns; ratios are medians over the pairs."""

    api: LoadStats
    engine: LoadStats
    total_ratio: float
    decode_ratio: float
    pair_ratios: list[float]  #: of the total rates
    same_text: bool  #: every stream's text was the same on both sides


def bench(
    url: Annotated[str, typer.Argument(help="The server to measure.")] = "http://127.0.0.1:8000",
    streams: Annotated[
        list[int] | None, typer.Option("--streams", "-n", help="Concurrent streams; may repeat.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Length of each prompt, about.")] = 32,
    output_tokens: Annotated[int, typer.Option(help="Length of each reply, exactly.")] = 128,
    max_tokens: Annotated[int | None, typer.Option(help="Ask for more than --output-tokens, then hang up.")] = None,
    turns: Annotated[int, typer.Option(help="Turns (or pairs) after one to warm up; medians are shown.")] = 5,
    engine: Annotated[bool, typer.Option("--engine", help="Measure the engine loop in process instead.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Measure both in turns and show the ratio.")] = False,
    model: Annotated[str | None, typer.Option(help="Model: the server's name, and a reference for --engine.")] = None,
    key: Annotated[str | None, typer.Option(envvar="TAILRACE_API_KEY", help="The server's API key.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Don't verify the server's certificate.")] = False,
    threads: Annotated[int | None, typer.Option(help="Engine threads of --engine and --compare.")] = None,
    weights: Annotated[str | None, typer.Option(help="Weights of --engine and --compare, as in serve.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure tokens a second, time to first token and the gaps between tokens."""
    settings = resolve_tuned({"threads": threads, "model": model, "weights": weights}).settings
    loads = [
        LoadProfile(streams=count, prompt_tokens=prompt_tokens, output_tokens=output_tokens, max_tokens=max_tokens)
        for count in streams or [1, 4, 8]
    ]
    client = None if engine else _client(url, model if not compare else None, key, verify=not insecure)
    results: list[LoadStats | Comparison] = []
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(_engine_process(settings)) if engine or compare else None
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = progress.add_task("measuring", total=len(loads) * (turns + 1))
        for load in loads:
            pairs: list[tuple[list[StreamTiming] | None, list[StreamTiming] | None]] = []
            for turn in range(turns + 1):
                # The first side of a pair changes, so that neither always follows the other's heat.
                first = _engine_turn(alone, load, turn) if turn % 2 else None
                api = _api_turn(client, load, turn)
                pairs.append((api, first or _engine_turn(alone, load, turn)))
                progress.advance(task)
            results.append(_result(pairs[1:]))
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(result) for result in results], indent=2))
    else:
        _show(results, engine=engine)


def _result(pairs: list[tuple[list[StreamTiming] | None, list[StreamTiming] | None]]) -> LoadStats | Comparison:
    api = [load_stats(pair[0]) for pair in pairs if pair[0] is not None]
    engine = [load_stats(pair[1]) for pair in pairs if pair[1] is not None]
    if not api or not engine:
        return median_stats(api or engine)
    ratios = [a.total_rate / b.total_rate for a, b in zip(api, engine, strict=True)]
    decode = [a.decode_rate / b.decode_rate for a, b in zip(api, engine, strict=True)]
    same = all(a.text == b.text for left, right in pairs if left and right for a, b in zip(left, right, strict=True))
    return Comparison(
        median_stats(api), median_stats(engine), statistics.median(ratios), statistics.median(decode), ratios, same
    )


def _show(results: list[LoadStats | Comparison], *, engine: bool) -> None:
    console = Console()
    table = Table(box=None, header_style="bold")
    for heading in ("streams", "", "tok/s", "decode tok/s", "TTFT ms", "gap ms", "p99", "max"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for result in results:
        if isinstance(result, LoadStats):
            _row(table, "engine" if engine else "API", result)
        else:
            _row(table, "API", result.api)
            _row(table, "engine", result.engine)
            table.add_row("", "[bold]ratio[/bold]", f"{result.total_ratio:.3f}", f"{result.decode_ratio:.3f}")
    console.print(table)


def _row(table: Table, side: str, shown: LoadStats) -> None:
    values = (shown.total_rate, shown.decode_rate, shown.ttft_median, shown.gap_median, shown.gap_p99, shown.gap_max)
    table.add_row(str(shown.streams), side, *(f"{value:.1f}" for value in values))


def _client(url: str, model: str | None, key: str | None, *, verify: bool) -> BenchClient:
    try:
        return BenchClient(url, model=model, key=key, verify=verify)
    except BenchError as error:
        raise TailraceError(str(error)) from error


def _api_turn(client: BenchClient | None, load: LoadProfile, turn: int) -> list[StreamTiming] | None:
    if client is None:
        return None
    try:
        return client.run(load, turn)
    except BenchError as error:
        raise TailraceError(str(error)) from error


def _engine_turn(process: subprocess.Popen[bytes] | None, load: LoadProfile, turn: int) -> list[StreamTiming] | None:
    if process is None:
        return None
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode({"prompts": load.prompts(turn), "tokens": load.output_tokens}) + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise TailraceError("the engine's process has ended; what it said stands above")
    return msgspec.json.decode(line, type=list[StreamTiming])


@contextlib.contextmanager
def _engine_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The engine alone, in a process of its own, so that its threads sleep while the API is measured."""
    path = find_model(settings).path
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tailrace.cli.bench", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(settings) + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.stdin.close()
        process.wait()


class _Turn(msgspec.Struct):
    prompts: list[str]
    tokens: int


def _engine_main() -> None:
    """Runs turns that come as lines of JSON, and writes each one's timings as a line."""
    die_with_parent()
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    logs.configure("engine", level="warning", form="console")
    turns = EngineTurn(Path(sys.argv[1]), settings)
    for line in sys.stdin.buffer:
        turn = msgspec.json.decode(line, type=_Turn)
        sys.stdout.buffer.write(msgspec.json.encode(turns.run(turn.prompts, turn.tokens)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _engine_main()
