"""Traces and metrics of requests by OpenTelemetry's conventions for generative AI, sent by OTLP over HTTP.

A request's spans are made at its end, from its summary. Threads of OpenTelemetry send them in batches: a collector that
is slow or gone delays and fails no request; what doesn't fit into their bounded queue is dropped. No span has a prompt
or a reply in it.

Sources: OpenTelemetry's semantic conventions, "Semantic conventions for generative AI systems" (spans and metrics), and
W3C Trace Context.
"""

from __future__ import annotations

import threading
import time

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from tailrace import __version__
from tailrace.observe.request_summary import CLIENT_GONE, GenerationFigures, RequestSummary

#: Seconds that the process waits at its end for the last batch.
_LAST_SECONDS = 2.0
#: Routes without a trace: probes and scrapes.
_QUIET = ("/health", "/metrics", "/stats")
_TEXT_ROUTES = ("/completions", "/completion", "/infill", "/api/generate")
#: The conventions' bounds of the histograms' buckets.
_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKENS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_OUTPUT_TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_USAGE = tuple(4**exponent for exponent in range(14))

Attributes = dict[str, AttributeValue]


class OpenTelemetryExport:
    """See the module."""

    def __init__(self, endpoint: str | None, host: str, port: int) -> None:
        """``endpoint`` None: the environment names the collector. Its other variables (headers, sampler, resource)
        apply in both cases.
        """
        root = None if endpoint is None else endpoint.rstrip("/")
        own = Resource({"service.name": "tailrace", "service.version": __version__})
        # The environment's attributes win over our own.
        resource = Resource.create(own.merge(OTELResourceDetector().detect()).attributes)
        self._server: Attributes = {"server.address": host, "server.port": port}
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracers.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=None if root is None else f"{root}/v1/traces"))
        )
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=None if root is None else f"{root}/v1/metrics")
        )
        self._meters = MeterProvider(resource=resource, metric_readers=[reader], shutdown_on_exit=False)
        self._tracer = self._tracers.get_tracer("tailrace", __version__)
        self._propagator = TraceContextTextMapPropagator()
        meter = self._meters.get_meter("tailrace", __version__)
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration",
            unit="s",
            description="Generative AI server request duration such as time-to-last byte or last output token.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._first_token = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            unit="s",
            description="Time to generate first token for successful responses.",
            explicit_bucket_boundaries_advisory=_FIRST_TOKENS,
        )
        self._output_token = meter.create_histogram(
            "gen_ai.server.time_per_output_token",
            unit="s",
            description="Time per output token generated after the first token for successful responses.",
            explicit_bucket_boundaries_advisory=_OUTPUT_TOKENS,
        )
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_USAGE,
        )

    def request_ended(self, summary: RequestSummary) -> None:
        """Make the request's spans, and count it."""
        if summary.route.startswith(_QUIET):
            return
        common = self._common(summary)
        self._trace(summary, common)
        if summary.generation is not None:
            self._measure(summary, summary.generation, common)

    def stop(self) -> None:
        """Send what is left, for a bounded time: the collector may be gone."""

        def send() -> None:
            self._tracers.shutdown()
            self._meters.shutdown(timeout_millis=_LAST_SECONDS * 1e3)

        thread = threading.Thread(target=send, name="telemetry", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)

    def _common(self, summary: RequestSummary) -> Attributes:
        """The attributes that spans and metrics share."""
        found = dict(self._server)
        if summary.model is not None:
            found["gen_ai.operation.name"] = _operation(summary)
            found["gen_ai.provider.name"] = "tailrace"
            found["gen_ai.request.model"] = found["gen_ai.response.model"] = summary.model
        if summary.error is not None:
            found["error.type"] = summary.error
        return found

    def _trace(self, summary: RequestSummary, common: Attributes) -> None:
        carrier = {"traceparent": summary.traceparent or "", "tracestate": summary.tracestate or ""}
        generation = summary.generation
        clock = _Clock()
        name = f"{summary.method} {summary.route}"
        if generation is not None:
            name = f"{_operation(summary)} {summary.model}"
        attributes = {**common, **_http(summary), **({} if generation is None else _usage(generation))}
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=clock.at(summary.began_at),
        )
        if generation is not None and span.is_recording():
            inside = set_span_in_context(span)
            for part, begun, ended in _parts(generation, summary.ended_at):
                child = self._tracer.start_span(part, context=inside, start_time=clock.at(begun))
                child.end(clock.at(ended))
        if summary.error is not None and (summary.status is None or summary.status >= 500 or summary.status == 200):
            span.set_status(Status(StatusCode.ERROR, summary.error))
        span.end(clock.at(summary.ended_at))

    def _measure(self, summary: RequestSummary, generation: GenerationFigures, common: Attributes) -> None:
        self._duration.record(summary.ended_at - summary.began_at, common)
        self._usage.record(generation.prompt_tokens, {**common, "gen_ai.token.type": "input"})
        self._usage.record(generation.completion_tokens, {**common, "gen_ai.token.type": "output"})
        if generation.first_token_at is not None and summary.error is None:
            self._first_token.record(generation.first_token_at - summary.began_at, common)
            if (speed := generation.tokens_per_second) is not None:
                # Of one reply: those of several choices come at the same time.
                self._output_token.record(len(generation.finishes) / speed, common)


def _operation(summary: RequestSummary) -> str:
    return "text_completion" if summary.route in _TEXT_ROUTES else "chat"


class _Clock:
    """Turns monotonic seconds into the nanoseconds of spans."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - round(time.monotonic() * 1e9)

    def at(self, seconds: float) -> int:
        return round(seconds * 1e9) + self._offset


def _http(summary: RequestSummary) -> Attributes:
    found: Attributes = {
        "http.request.method": summary.method,
        "http.route": summary.route,
        "url.path": summary.path[:2000],
        "http.response.status_code": CLIENT_GONE if summary.status is None else summary.status,
        "client.address": summary.client,
        "tailrace.request_id": summary.request_id,
    }
    if summary.key is not None:
        found["tailrace.key"] = summary.key
    return found


def _usage(generation: GenerationFigures) -> Attributes:
    found: Attributes = {
        "gen_ai.request.temperature": generation.temperature,
        "gen_ai.request.top_p": generation.top_p,
        "gen_ai.request.choice.count": generation.choices,
        "gen_ai.response.finish_reasons": generation.finishes,
        "gen_ai.usage.input_tokens": generation.prompt_tokens,
        "gen_ai.usage.output_tokens": generation.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": generation.cached_tokens,
    }
    if generation.max_tokens is not None:
        found["gen_ai.request.max_tokens"] = generation.max_tokens
    return found


def _parts(generation: GenerationFigures, ended_at: float) -> list[tuple[str, float, float]]:
    """The parts of a generation that it has reached: name, begin and end in monotonic seconds."""
    end = generation.ended_at or ended_at
    if generation.queue_seconds is None:
        return [("queue", generation.started_at, end)]
    admitted = generation.started_at + generation.queue_seconds
    first = admitted + generation.prefill_seconds
    return [("queue", generation.started_at, admitted), ("prefill", admitted, first), ("decode", first, end)]
