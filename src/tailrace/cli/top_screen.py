"""The screen of ``tailrace top``: statistics as text, for any width, with and without colours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tailrace.cli import console_output
from tailrace.cli.top_devices import devices_part
from tailrace.diagnosis.catalogue import Finding
from tailrace.diagnosis.report import EngineStats, Percentiles, ProcessStats, Stats

#: Each severity's mark and style: the mark says the same without colours.
_MARKS = {"critical": ("!!", "bold red"), "warning": ("! ", "yellow"), "info": ("  ", "green")}
#: The parts of an engine's time, with their style and the character of their bar where there are no colours.
_PARTS = (
    ("decode", "model", "green", "#"),
    ("schedule", "schedule", "cyan", "s"),
    ("masks", "masks", "red", "m"),
    ("sample", "sample", "blue", "t"),
    ("publish", "publish", "magenta", "p"),
    ("embeddings", "embed", "yellow", "e"),
)
_IDLE = "."
#: Characters of a model's name.
_MAX_NAME = 20
#: Columns of a terminal below which tables leave columns out.
_NARROW, _WIDE = 60, 100
#: Lines of a terminal below which advice is left out.
_LOW = 30


def screen(
    stats: Stats | None, *, url: str, width: int, height: int | None = None, problem: str = ""
) -> RenderableType:
    """The whole screen. ``stats`` None: nothing has been read yet. ``problem``: why the last reading failed.

    ``height``: lines of the terminal; with few of them, only the first finding has its advice. None: no limit.
    """
    lines: list[RenderableType] = [_title(stats, url)]
    if problem:
        lines.append(Text(f"!! {problem}", "bold red"))
    if stats is None:
        return Group(*lines)
    low = height is not None and height < _LOW
    lines += [finding_line(each, advice=number == 0 or not low) for number, each in enumerate(stats.findings)]
    lines += [Text(), *_requests(stats)]
    for engine in stats.engines:
        lines += _engine(engine, several=len(stats.engines) > 1, width=width)
    lines += devices_part(stats, width)
    lines += [Text(), _processes(stats.processes, width)]
    return Group(*lines)


def _title(stats: Stats | None, url: str) -> Text:
    title = Text("tailrace top", "bold")
    title.append(f"  {url}", "not bold")
    if stats is not None and stats.model:
        title.append(f"  {stats.model}", "not bold dim")
    return title


def finding_line(found: Finding, *, advice: bool) -> RenderableType:
    """A finding in words, marked by its severity."""
    mark, style = _MARKS[found.severity]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    words = Text(found.sentence)
    if found.advice and advice:
        words.append(f" {found.advice}", "dim")
    grid.add_row(Text(f"{mark}{found.code}", style), words)
    return grid


def _requests(stats: Stats) -> Iterable[RenderableType]:
    requests, tokens = stats.requests, stats.tokens
    waits = f", the oldest for {_seconds(requests.oldest_wait)}" if requests.waiting else ""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("requests", f"{requests.running} running of {requests.slots}, {requests.waiting} waiting{waits}")
    rates = f"{tokens.generated:.0f} tokens/s, {tokens.prompt:.0f} prompt tokens/s"
    if tokens.cached_part is not None:
        rates += f", {100 * tokens.cached_part:.0f} % of prompts cached"
    if tokens.accepted_part is not None:
        rates += f", {100 * tokens.accepted_part:.0f} % of drafts right"
    grid.add_row("tokens", rates)
    window = f"last {_seconds(stats.latency.window)}"
    grid.add_row("first token", _percentiles(stats.latency.first_token, window))
    grid.add_row("between tokens", _percentiles(stats.latency.inter_token, window))
    yield grid


def _percentiles(times: Percentiles, window: str) -> str:
    if times.p50 is None or times.p90 is None or times.p99 is None:
        return f"none, {window}"
    return f"p50 {_seconds(times.p50)}, p90 {_seconds(times.p90)}, p99 {_seconds(times.p99)}, {window}"


def _engine(engine: EngineStats, *, several: bool, width: int) -> Iterable[RenderableType]:
    name = _engine_name(engine, several=several)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim", min_width=len("between tokens"))
    grid.add_column(overflow="fold")
    if engine.steps:
        steps = f"{engine.steps:.0f} steps/s of {_seconds(engine.step_seconds)}, {engine.batch:.1f} sequences each"
        reads = f", reads {console_output.size(round(engine.read_rate))}/s" if engine.read_rate else ""
        grid.add_row(name, f"{steps}{reads}")
    else:
        grid.add_row(name, f"no steps, last heard {_seconds(engine.silent)} ago")
    bar_width = max(10, min(60, width - len("between tokens") - 3))
    parts = [(label, getattr(engine.parts, field), style, mark) for field, label, style, mark in _PARTS]
    grid.add_row("time", _bar([(share, style, mark) for _, share, style, mark in parts], bar_width))
    grid.add_row("", _legend(parts))
    part = engine.kv_used / engine.kv_cells if engine.kv_cells else 0.0
    cells = _bar([(part, "green", "#")], bar_width // 3)
    cells.append(f"  {engine.kv_used} of {engine.kv_cells} tokens, {100 * part:.0f} %", "not dim")
    grid.add_row("KV cache", cells)
    yield grid


def _engine_name(engine: EngineStats, *, several: bool) -> str:
    """The engine's number, or its model's name: of a long one the end, which has the quantisation."""
    if engine.model is None:
        return f"engine {engine.replica}" if several else "engine"
    name = f"{engine.model} {engine.replica}" if engine.replica else engine.model
    return name if len(name) <= _MAX_NAME else f"…{name[1 - _MAX_NAME :]}"


def _bar(parts: Sequence[tuple[float, str, str]], width: int) -> Text:
    bar, filled, total = Text(no_wrap=True), 0, 0.0
    for share, style, mark in parts:
        total += share
        end = min(width, round(total * width))
        bar.append(mark * max(0, end - filled), style)
        filled = max(filled, end)
    bar.append(_IDLE * (width - filled), "dim")
    return bar


def _legend(parts: Sequence[tuple[str, float, str, str]]) -> Text:
    legend = Text()
    for label, share, style, mark in parts:
        if share >= 0.005:
            legend.append(f"{mark} ", style)
            legend.append(f"{label} {100 * share:.0f} %  ")
    idle = max(0.0, 1 - sum(share for _, share, _, _ in parts))
    legend.append(f"{_IDLE} idle {100 * idle:.0f} %")
    return legend


def _processes(processes: Sequence[ProcessStats], width: int) -> Table:
    """The table. Narrow terminals get its first columns."""
    columns: list[tuple[str, list[str]]] = [
        ("PROCESS", [each.role for each in processes]),
        ("CPU %", [f"{100 * each.cpu:.0f}" for each in processes]),
        ("MEMORY", [console_output.size(each.memory) for each in processes]),
    ]
    if width >= _NARROW:
        columns.insert(1, ("PID", [str(each.pid) for each in processes]))
        columns.append(("WAITS FOR CPU %", [f"{100 * each.wait:.0f}" for each in processes]))
    if width >= _WIDE:
        columns.append(("THREADS", [str(each.threads) for each in processes]))
        columns.append(("PREEMPTED/s", [f"{each.involuntary:.0f}" for each in processes]))
        columns.append(("DISK READS/s", [f"{each.major_faults:.0f}" for each in processes]))
        columns.append(("STATE", [each.state for each in processes]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, (heading, _) in enumerate(columns):
        table.add_column(heading, justify="left" if number == 0 or heading == "STATE" else "right", no_wrap=True)
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _seconds(amount: float) -> str:
    if amount < 0.0995:
        return f"{1000 * amount:.1f} ms"
    return f"{1000 * amount:.0f} ms" if amount < 0.995 else f"{amount:.1f} s"
