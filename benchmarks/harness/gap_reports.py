"""What an engine's log says of its long gaps: the lines ``replies waited`` of a server with ``log_format`` json."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

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
        parts = self.parts.partition(", inbox 0")[0]
        ops = f"; {self.cache_ops}" if self.cache_ops else ""
        return (
            f"{self.ms} ms, the loop's CPU time {self.cpu_ms} ms: {parts}; {self.prompt_tokens} prompt tokens{ops}; "
            f"{self.page_faults} page faults, {self.interruptions} interruptions"
        )


def settings(bound_ms: int) -> dict[str, str]:
    """The settings of a server whose gaps of more than ``bound_ms`` are to be read."""
    return {"log_level": "info", "log_format": "json", "log_gap_ms": str(bound_ms)}


def read(lines: Iterable[str]) -> list[GapReport]:
    """The reports in a server's log, the longest gap first."""
    found: list[GapReport] = []
    for line in lines:
        if '"replies waited"' in line:
            found.append(msgspec.convert(json.loads(line), GapReport))
    return sorted(found, key=lambda report: -report.ms)


def notes(name: str, bound_ms: int, reports: list[GapReport]) -> list[str]:
    """What a benchmark says of the reports of server ``name``."""
    if not reports:
        return [f"{name}: the engine reports no gap of more than {bound_ms} ms."]
    by_cpu = sum(report.cpu_ms > bound_ms for report in reports)
    head = f"{name}: {len(reports)} gaps of more than {bound_ms} ms, in {by_cpu} of them by the loop's CPU time alone."
    return [head, *(f"- {report}" for report in reports[:_SHOWN])]
