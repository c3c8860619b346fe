"""Traces and metrics of a real server, as a collector gets them; and a collector that is gone or silent."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from openai_wire import ask, chat
from otlp_collector import Collector, collecting, plain
from servers import ServerProcess, serving, wait_for

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAY = "<say>okay</say>"
#: Values of ``traceparent`` that W3C's rules refuse.
BROKEN = {
    "empty": "",
    "nonsense": "nonsense",
    "zeros": f"00-{'0' * 32}-{PARENT}-01",
    "version": f"ff-{TRACE}-{PARENT}-01",
    "long": "\xe9" * 5000,
}


@contextlib.contextmanager
def exporting(*arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """A server that exports soon after each request."""
    soon = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200", **environment}
    with serving("--backend", "fake", *arguments, environment=soon) as server:
        yield server


@pytest.fixture(scope="module")
def collected() -> Iterator[tuple[ServerProcess, Collector]]:
    with collecting() as collector:
        address = f"http://127.0.0.1:{collector.port}"
        attributes = "deployment.environment.name=test"
        with exporting("--otlp-endpoint", address, OTEL_RESOURCE_ATTRIBUTES=attributes) as server:
            yield server, collector


def spans_of(collector: Collector, identity: str) -> tuple[Any, dict[str, Any]]:
    """The server span of a request, and the spans inside of it by name."""

    def found() -> list[Any]:
        return [span for span in collector.spans if plain(span.attributes).get("tailrace.request_id") == identity]

    wait_for("the request's span", lambda: bool(found()))
    (span,) = found()
    return span, {child.name: child for child in collector.spans if child.parent_span_id == span.span_id}


def test_a_request_is_a_span_of_its_client_s_trace(collected: tuple[ServerProcess, Collector]) -> None:
    server, collector = collected
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=x", "x-request-id": "traced"}
    body = {**chat(SAY, stream=True), "max_tokens": 50, "temperature": 0.5}
    assert ask(server.port, "POST", "/v1/chat/completions", body, headers).status == 200
    span, children = spans_of(collector, "traced")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=x"
    assert (span.name, span.kind) == ("chat fake", 2), "SPAN_KIND_SERVER"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tailrace",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.output_tokens": 5,
        "http.request.method": "POST",
        "http.route": "/chat/completions",
        "http.response.status_code": 200,
    }
    attributes = plain(span.attributes)
    assert {name: attributes[name] for name in expected} == expected
    assert attributes["gen_ai.usage.input_tokens"] >= len(SAY)
    assert "okay" not in str(attributes)
    queue, prefill, decode = (children[name] for name in ("queue", "prefill", "decode"))
    assert span.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert decode.end_time_unix_nano <= span.end_time_unix_nano
    assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 300
    assert collector.resource["service.name"] == "tailrace"
    assert collector.resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_traceparent_begins_a_trace(collected: tuple[ServerProcess, Collector], kind: str) -> None:
    server, collector = collected
    headers = {"traceparent": BROKEN[kind], "x-request-id": f"broken-{kind}"}
    assert ask(server.port, "POST", "/v1/chat/completions", chat(SAY), headers).status == 200
    span, children = spans_of(collector, f"broken-{kind}")
    assert not span.parent_span_id
    assert span.trace_id.hex() not in (TRACE, "0" * 32)
    assert set(children) == {"queue", "prefill", "decode"}


def test_a_refused_request_is_a_span_with_its_error(collected: tuple[ServerProcess, Collector]) -> None:
    server, collector = collected
    body = {**chat(SAY), "max_tokens": "many"}
    assert ask(server.port, "POST", "/v1/chat/completions", body, {"x-request-id": "refused"}).status == 400
    span, children = spans_of(collector, "refused")
    attributes = plain(span.attributes)
    assert (span.name, attributes["error.type"]) == ("POST /chat/completions", "invalid_request_error")
    assert (span.status.code, children) == (0, {}), "a client's error isn't the server's"


def test_probes_have_no_spans(collected: tuple[ServerProcess, Collector]) -> None:
    server, collector = collected
    ask(server.port, "GET", "/health", None, {"x-request-id": "probe"})
    ask(server.port, "GET", "/v1/models", None, {"x-request-id": "after"})
    spans_of(collector, "after")
    assert not [span for span in collector.spans if plain(span.attributes).get("tailrace.request_id") == "probe"]


def test_metrics_by_the_conventions(collected: tuple[ServerProcess, Collector]) -> None:
    server, collector = collected
    assert ask(server.port, "POST", "/v1/completions", {"prompt": f"Metrics {SAY}"}).status == 200

    def texts(name: str) -> list[Any]:
        if name not in collector.metrics:
            return []
        found = [(plain(point.attributes), point) for point in collector.points(name)]
        return [entry for entry in found if entry[0]["gen_ai.operation.name"] == "text_completion"]

    wait_for("its metrics", lambda: bool(texts("gen_ai.server.request.duration")))
    for name in ("request.duration", "time_to_first_token", "time_per_output_token"):
        ((attributes, point),) = texts(f"gen_ai.server.{name}")
        assert point.count == 1
        assert 0 < point.sum < 60
        assert attributes["gen_ai.request.model"] == "fake"
        assert collector.metrics[f"gen_ai.server.{name}"].unit == "s"
    tokens = {attributes["gen_ai.token.type"]: point.sum for attributes, point in texts("gen_ai.client.token.usage")}
    assert tokens["output"] == 5
    assert tokens["input"] >= len(f"Metrics {SAY}")
    assert list(collector.points("gen_ai.client.token.usage")[0].explicit_bounds)[:4] == [1, 4, 16, 64]


def test_opentelemetry_s_own_variables_switch_it_on() -> None:
    with collecting() as collector:
        address = f"http://127.0.0.1:{collector.port}"
        with exporting(OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_SERVICE_NAME="mine") as server:
            ask(server.port, "POST", "/v1/chat/completions", chat(SAY), {"x-request-id": "env"})
            assert server.process.poll() is None
            server.process.terminate()
            assert server.process.wait(60) == 0
        spans_of(collector, "env")  # What wasn't sent before is sent at the end.
        assert collector.resource["service.name"] == "mine"


@pytest.mark.parametrize("collector", ["gone", "silent"])
def test_no_collector_delays_or_fails_a_request(collector: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if collector == "silent":
            listening.listen(100)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        # A queue of 10 spans is full after three requests.
        small = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        with exporting("--otlp-endpoint", address, **small) as server:
            for _ in range(30):
                assert ask(server.port, "POST", "/v1/chat/completions", chat(SAY)).status == 200
            begun = time.monotonic()
            server.process.terminate()
            assert server.process.wait(60) == 0
            assert time.monotonic() - begun < 20, "a bound against a hang: the end waits 2 s for the collector"


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    program = """
import sys
import tailrace.server.process
from tailrace.server.app_state import AppState
from tailrace.settings import Settings
AppState.of_one(Settings(responses_mb=0), "m")
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf", "requests"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
