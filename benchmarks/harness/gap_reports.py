"""What an engine's log says of its long gaps: the lines ``replies waited`` of a server with ``log_format`` json."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator

import msgspec

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Options
from tailrace.loadtest.bench_client import BenchClient

#: Reports that are shown, the longest gaps first.
_SHOWN = 5


class GapReport(msgspec.Struct, frozen=True):
    """One line: see docs/metrics.md, long gaps."""

    ms: int
    cpu_ms: int
    parts: str
    prompt_tokens: int = 0
    cache_ops: str = ""
    page_faults: int = 0
    interruptions: int = 0

    def __str__(self) -> str:
        ops = f"; {self.cache_ops}" if self.cache_ops else ""
        return (
            f"{self.ms} ms, the loop's CPU time {self.cpu_ms} ms: {self.parts}; "
            f"{self.prompt_tokens} prompt tokens{ops}; {self.page_faults} page faults, "
            f"{self.interruptions} interruptions"
        )


@contextlib.contextmanager
def reporting_server(options: Options, bound_ms: int, reports: list[GapReport], *flags: str) -> Iterator[BenchClient]:
    """Run ``tailrace serve`` with the options' model and ``flags``. At its end ``reports`` gets those of its gaps that
    are longer than ``bound_ms``.
    """
    lines: list[str] = []
    server = servers.tailrace(
        options.model,
        options.threads,
        *flags,
        lines=lines,
        log_level="info",
        log_format="json",
        log_gap_ms=str(bound_ms),
    )
    with server as client:
        yield client
    reports += read(lines)


def read(lines: Iterable[str]) -> list[GapReport]:
    """The reports in a server's log."""
    return [msgspec.convert(json.loads(line), GapReport) for line in lines if '"replies waited"' in line]


def notes(name: str, bound_ms: int, reports: list[GapReport]) -> list[str]:
    """What a benchmark says of the reports of server ``name``."""
    if not reports:
        return [f"{name}: the engine reports no gap of more than {bound_ms} ms."]
    by_cpu = sum(report.cpu_ms > bound_ms for report in reports)
    ordered = sorted(reports, key=lambda report: -report.ms)
    head = f"{name}: {len(reports)} gaps of more than {bound_ms} ms, in {by_cpu} of them by the loop's CPU time alone."
    return [head, *(f"- {report}" for report in ordered[:_SHOWN])]
