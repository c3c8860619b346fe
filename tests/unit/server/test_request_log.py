"""The line of a request: what it has, and when it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import structlog

from tailrace.observe.request_summary import GenerationFigures, RequestSummary
from tailrace.server.generation import Generation
from tailrace.server.request_log import RequestLog


class Ended:
    """A generation, as far as the log needs it."""

    prompt_text = "secret prompt"
    model_name = "m"

    def __init__(self, *, ended: bool = True) -> None:
        now = time.monotonic()
        self.figures = GenerationFigures(now - 2.0)
        self.figures.first_token_at = now - 1.0
        self.figures.queue_seconds = 0.25
        self.figures.prompt_tokens, self.figures.cached_tokens, self.figures.completion_tokens = 10, 4, 11
        self.figures.finishes = ["stop"]
        self.figures.ended_at = now if ended else None
        self.on_end: list[Callable[[], None]] = []

    def at_end(self, call: Callable[[], None]) -> None:
        """See ``Generation``."""
        if self.figures.ended_at is None:
            self.on_end.append(call)
        else:
            call()


def summary(**fields: Any) -> RequestSummary:
    values: dict[str, Any] = {
        "request_id": "r",
        "method": "POST",
        "route": "/chat/completions",
        "path": "/chat/completions",
    }
    values |= {"client": "127.0.0.1", "key": "alice", "began_at": time.monotonic() - 2.0, "status": 200}
    return RequestSummary(**{**values, **fields})


def lines(log: RequestLog, *requests: tuple[RequestSummary, Ended | None]) -> list[Any]:
    with structlog.testing.capture_logs() as found:
        for request, generation in requests:
            log.ended(request, cast(Generation | None, generation))
    return list(found)


def test_a_generation_s_line() -> None:
    seen: list[RequestSummary] = []
    (line,) = lines(RequestLog(lines=True, prompts=False, on_request=seen.append), (summary(), Ended()))
    expected = {"event": "request", "log_level": "info", "route": "/chat/completions", "status": 200, "key": "alice"}
    expected |= {"prompt_tokens": 10, "cached": 4, "completion_tokens": 11, "queue": 0.25, "finish": "stop"}
    expected |= {"client": "127.0.0.1", "model": "m", "ttft": 1.0, "tok_s": 10.0}
    assert {name: line[name] for name in expected} == expected
    assert "secret" not in str(line)
    assert "error" not in line
    assert len(seen) == 1


def test_prompts_are_logged_on_request_alone() -> None:
    (line,) = lines(RequestLog(lines=True, prompts=True), (summary(), Ended()))
    assert line["prompt"] == "secret prompt"


def test_a_refused_request_s_line_has_the_error() -> None:
    (line,) = lines(RequestLog(lines=True, prompts=False), (summary(status=429, error="queue_full", key=None), None))
    assert (line["status"], line["error"]) == (429, "queue_full")
    assert "key" not in line
    assert "model" not in line


def test_an_error_within_a_stream_is_in_the_line() -> None:
    generation = Ended()
    generation.figures.error = "engine_died"
    (line,) = lines(RequestLog(lines=True, prompts=False), (summary(), generation))
    assert line["error"] == "engine_died"


def test_a_client_that_has_gone_has_a_status_of_its_own() -> None:
    (line,) = lines(RequestLog(lines=True, prompts=False), (summary(status=None), None))
    assert line["status"] == 499


def test_probes_are_logged_for_debugging() -> None:
    log = RequestLog(lines=True, prompts=False)
    probe, scrape, view, failed = (summary(route=route) for route in ("/health/live", "/metrics", "/stats", "/health"))
    failed.status = 503
    levels = [line["log_level"] for line in lines(log, *((each, None) for each in (probe, scrape, view, failed)))]
    assert levels == ["debug"] * 4


def test_a_generation_that_outlives_its_request_is_logged_at_its_end() -> None:
    generation = Ended(ended=False)
    log = RequestLog(lines=True, prompts=False)
    assert not lines(log, (summary(), generation))
    with structlog.testing.capture_logs() as found:
        for call in generation.on_end:
            call()
    assert len(found) == 1


def test_no_lines_where_they_are_switched_off() -> None:
    seen: list[RequestSummary] = []
    assert not lines(RequestLog(lines=False, prompts=False, on_request=seen.append), (summary(), Ended()))
    assert len(seen) == 1, "traces are another matter"
