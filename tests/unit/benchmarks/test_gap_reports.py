"""What a benchmark says of an engine's long gaps."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import gap_reports
from tailrace.engine.long_gaps import LongGaps
from tailrace.engine.sequence import Sequence
from tailrace.protocol import Submit


def _line(ms: int, cpu_ms: int) -> str:
    fields = {"event": "replies waited", "ms": ms, "cpu_ms": cpu_ms, "level": "info", "cache_ops": "1 evict"}
    return json.dumps(fields | {"parts": f"decode {ms} (CPU {cpu_ms})"})


def test_the_longest_gaps_are_named_first() -> None:
    lines = ["tailrace listens on ...", _line(120, 30), _line(300, 250), '{"event": "request"}']
    notes = gap_reports.notes("moves", 100, gap_reports.read(lines))
    assert notes[0] == "moves: 2 gaps of more than 100 ms, in 1 of them by the loop's CPU time alone."
    assert notes[1].startswith("- 300 ms, the loop's CPU time 250 ms: decode 300 (CPU 250); 0 prompt tokens; 1 evict;")
    assert notes[2].startswith("- 120 ms, ")
    assert gap_reports.notes("moves", 100, []) == ["moves: the engine reports no gap of more than 100 ms."]


def test_a_line_that_the_engine_writes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, object]] = []

    class _Log:
        def info(self, event: str, **fields: object) -> None:
            written.append({"event": event, **fields})

    monkeypatch.setattr("tailrace.engine.long_gaps.structlog.get_logger", _Log)
    monkeypatch.setattr("tailrace.engine.long_gaps._SHORT_SECONDS", 0.0)
    gaps = LongGaps(1e-9)
    sequence = Sequence(Submit(id=1, prompt=[1]), [1], 10, frozenset())
    for _ in range(2):
        gaps.mark("decode")
        gaps.end([sequence], 12, 0.0)
    (report,) = gap_reports.read(map(json.dumps, written))
    assert report.prompt_tokens == 12
    assert "decode" in report.parts
