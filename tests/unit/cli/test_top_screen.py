"""The screen of ``tailrace top`` at several widths, with and without colours."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from diagnosed_server import changed
from tailrace.cli.server_client import ServerClient
from tailrace.cli.stats_client import StatsClient, _harmless
from tailrace.cli.top_screen import screen
from tailrace.diagnosis.report import Stats, make_stats
from tailrace.diagnosis.server_sample import HistogramSample
from tailrace.errors import ConfigurationError

BUSY: dict[str, Any] = {"threads": 8, "run": 0.24, "wait": 0.7, "running": 8, "waiting": (3, 5), "oldest_wait": 4.0}


def drawn(stats: Stats | None, width: int = 80, *, color: bool = False, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None)
    console.print(screen(stats, url="http://127.0.0.1:8000", width=width, **options))
    written = console.file.getvalue()  # type: ignore[attr-defined]  # the console's file is the StringIO above
    assert isinstance(written, str)
    return written


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    stats = make_stats(*changed(**BUSY))
    lines = drawn(stats, width).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    assert "too_many_threads" in words
    assert "\x1b" not in "".join(lines)


def test_a_screen_of_80_columns_and_24_lines_has_everything() -> None:
    shown = drawn(make_stats(*changed(**BUSY)), 80, height=24)
    assert len(shown.splitlines()) <= 24
    for text in ("! too_many_threads", "queue", "8 running of 8, 5 waiting, the oldest for 4.0 s", "200 tokens/s"):
        assert text in shown
    for text in ("50 steps/s of 19.0 ms, 4.0 sequences each", "# model 95 %", ". idle 5 %", "1000 of 10000 tokens"):
        assert text in shown
    assert "WAITS FOR CPU %" in shown


def test_advice_is_left_out_where_lines_are_few() -> None:
    stats = make_stats(*changed(**BUSY))
    assert "`--parallel`" in drawn(stats, height=50)
    low = drawn(stats, height=24)
    assert "`--parallel`" not in low
    assert "`--threads 2`" in low, "the first finding keeps its advice"


def test_severities_differ_without_colours() -> None:
    shown = drawn(make_stats(*changed(state="T", threads=8)), 200)
    assert "!!engine_stopped" in shown
    assert "! too_many_threads" in shown
    assert "\x1b[1;31m!!engine_stopped" in drawn(make_stats(*changed(state="T")), 200, color=True)


def test_a_server_that_does_not_answer_is_shown_with_its_last_figures() -> None:
    assert "http://127.0.0.1:8000" in drawn(None)
    shown = drawn(make_stats(*changed()), problem="it doesn't answer")
    assert "!! it doesn't answer" in shown
    assert "tokens/s" in shown


def test_percentiles_are_those_since_the_oldest_sample() -> None:
    before, after = changed()
    bounds = (0.1, 0.2, float("inf"))
    old, new = HistogramSample(bounds, (100.0, 100.0, 100.0)), HistogramSample(bounds, (150.0, 200.0, 200.0))
    before = msgspec.structs.replace(before, server=msgspec.structs.replace(before.server, first_token=old))
    after = msgspec.structs.replace(after, server=msgspec.structs.replace(after.server, first_token=new))
    found = make_stats(before, after).latency.first_token
    assert found.p50 == 0.1
    assert found.p90 == pytest.approx(0.18)
    assert "p50 100 ms, p90 180 ms, p99 198 ms, last 1.0 s" in drawn(make_stats(before, after))
    assert HistogramSample(bounds, (0.0, 0.0, 5.0)).percentile(0.5) == 0.2, "beyond the last bound"
    assert HistogramSample().percentile(0.5) is None


def test_names_from_the_wire_control_no_terminal() -> None:
    evil = {"a": ["x\x1b]0;title\x07y", 1, None], "b": {"c": "\x9b31m\r\b"}}
    assert _harmless(evil) == {"a": ["x␛]0;title␇y", 1, None], "b": {"c": "�31m␈"}}


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("https://host/v1", "https://host"),
        ("http://user:secret@host:1/", "http://host:1"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000"),
    ],
)
def test_a_clients_base_url_is_as_good_as_the_root(url: str, root: str) -> None:
    client = ServerClient(url)
    assert (client.url, client.root) == (root, root)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        StatsClient(url)


@pytest.mark.parametrize("width", [30, 80, 200])
def test_engines_of_several_models_have_their_names(width: int) -> None:
    stats = make_stats(*changed(engines=2, connected=2, models=("chat", "org/repository-" + 60 * "x"), running=8))
    assert [engine.model for engine in stats.engines] == ["chat", "org/repository-" + 60 * "x"]
    shown = drawn(stats, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "chat" in shown
    if width >= 80:
        assert "8 running of 16, " in shown, "the slots of both"
        assert f"…{19 * 'x'} " in shown, "the end of a long name"
