"""docs/metrics.md has each field of a request's line in the log, and each alert."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from tailrace.observe.request_summary import GenerationFigures, RequestSummary
from tailrace.server.request_log import line_fields

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_every_field_of_a_request_s_line_has_its_row() -> None:
    figures = GenerationFigures(1.0, first_token_at=2.0, queue_seconds=0.5, ended_at=4.0, completion_tokens=9)
    summary = RequestSummary(
        request_id="r",
        method="POST",
        route="/chat/completions",
        path="/chat/completions",
        client="127.0.0.1",
        key="alice",
        model="m",
        began_at=0.5,
        error="engine_died",
        generation=figures,
        prompt="p",
    )
    section = PAGE.partition("## Logs")[2].partition("\n## ")[0]
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    known = {"method", "model", "suppressed"}
    assert documented - known == set(line_fields(summary)) - known


def test_every_alert_has_its_row() -> None:
    rules = (files("tailrace.observe") / "monitoring" / "prometheus_rules.yml").read_text(encoding="utf-8")
    section = PAGE.partition("## Dashboard and alerts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == re.findall(r"- alert: (\w+)", rules)
