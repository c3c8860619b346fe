"""The HTTP process's counts of requests, and ``/metrics``: all metrics in Prometheus' text format.

Nothing is counted per token. A request is counted when it starts and ends, the gaps between tokens once a step, and the
engine's counters come with its heartbeats and are read at a scrape. Every metric has its samples from the first scrape
on, so that ``rate()`` sees the first increase.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from tailrace.errors import RequestError
from tailrace.observe import log_writer
from tailrace.observe.device_metrics import DEVICE_METRICS, LINK_METRICS, all_devices
from tailrace.observe.engine_figures import EngineFigures, EngineState
from tailrace.observe.exposition import expose
from tailrace.observe.histogram import Histogram
from tailrace.observe.llama_server_metrics import LLAMA_SERVER_METRICS, LlamaServerTotals, LlamaServerView
from tailrace.observe.metric import Labelled
from tailrace.observe.model_metrics import MODEL_LABELS, MODEL_METRICS, LoadState
from tailrace.observe.own_metrics import (
    ENGINE_METRICS,
    SERVER_METRICS,
    ConnectionCounts,
    QueueCounts,
    ServerView,
    Throttling,
)
from tailrace.observe.process_stats import ProcessStats, child_pids, read_process
from tailrace.observe.request_totals import RequestTotals
from tailrace.observe.vllm_metrics import ENGINE_LABELS, VLLM_METRICS, EngineView
from tailrace.protocol import EngineCounters
from tailrace.worker_protocol.device_reading import DeviceReading

#: Max values of a label that comes from code all over the server. More than there are.
_MAX_CODES = 200
#: Served models up to which each has its engines' samples before it is loaded: they are 600 lines.
_MAX_UNLOADED_MODELS = 100


#: Upper bounds in seconds, the last one infinite, and how many times were at most as long as each.
Buckets = tuple[tuple[float, ...], tuple[float, ...]]


class TokenCounts(Protocol):
    """A request's tokens: its prompt, the part of it that was cached, and its replies."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...


class Lives(Protocol):
    """The supervisor's counts of its children: the HTTP process is number 0, engine n is n + 1."""

    def starts(self, child: int) -> int: ...
    def hangs(self, child: int) -> int: ...


class ModelMetrics:
    """One served model's part of the metrics, labelled with its name and its engines' numbers."""

    def __init__(self, server: Metrics, name: str, engine: EngineState, load: LoadState, replicas: int) -> None:
        """Use ``Metrics.add_model``."""
        self.server = server  #: counts what isn't of one model
        self.name = name
        self.engine = engine
        self.load = load
        self._requests = [RequestTotals() for _ in range(replicas)]

    def requests(self, replica: int) -> RequestTotals:
        """The totals of the requests to engine number ``replica``."""
        while len(self._requests) <= replica:
            self._requests.append(RequestTotals())
        return self._requests[replica]

    @property
    def totals(self) -> Sequence[RequestTotals]:
        """Those of all engines, by number."""
        return self._requests

    def figures(self) -> list[EngineFigures]:
        """All engines, by number."""
        return [self.engine.figures(number) for number in range(len(self._requests))]


class Metrics:
    """One process's metrics: the server's, and those of each served model."""

    def __init__(self, *, several: bool = False) -> None:
        """``several``: models come and go, so the names of engines have their model's."""
        self._several = several
        self._models: dict[str, ModelMetrics] = {}
        self._llama_server = LlamaServerTotals()
        self._responses: Labelled = {("other", "404"): 0}
        self._errors: Labelled = dict.fromkeys((*_error_codes(), *REFUSALS), 0)
        self._refusals: Labelled = dict.fromkeys(REFUSALS, 0)
        self.lives: Lives | None = None  #: the supervisor's counts; None without a supervisor
        self.connections: ConnectionCounts | None = None  #: None before the server listens
        self.queue: QueueCounts | None = None
        self.is_ready: Callable[[], bool] | None = None  #: whether requests are taken; None: while an engine can
        #: Reads the CPU throttling of this process's control groups; they limit each other, so the largest counts.
        self.read_throttling: Callable[[], Iterable[Throttling]] = tuple
        self.read_devices: Callable[[], Iterable[DeviceReading]] = tuple  #: the last figures of this machine's devices

    def add_model(self, name: str, engine: EngineState, load: LoadState, replicas: int = 1) -> ModelMetrics:
        """The metrics of one more served model, which show it from now on."""
        self._models[name] = added = ModelMetrics(self, name, engine, load, replicas)
        return added

    def remove_model(self, name: str) -> None:
        """Show it no more."""
        self._models.pop(name, None)

    def add_route(self, route: str) -> None:
        """Show a route's responses before there are any."""
        self._responses.setdefault((route, "200"), 0)

    def response_started(self, route: str, status: int) -> None:
        """Count an HTTP response, when its status line is sent. ``route`` is a template: paths are without number."""
        key = (route, str(status))
        self._responses[key] = self._responses.get(key, 0) + 1

    def request_failed(self, error: RequestError) -> None:
        """Count a request that has ended with ``error``."""
        code = error.code or error.type
        if code not in self._errors and len(self._errors) >= _MAX_CODES:
            code = "other"
        self._errors[code] = self._errors.get(code, 0) + 1
        if error.status in (429, 503, 504):
            self._refusals[code] = self._refusals.get(code, 0) + 1

    def count_tokens(self, counts: TokenCounts) -> None:
        """Count the tokens of a request that has ended, successfully or not, for llama-server's metrics."""
        self._llama_server.count_request(counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens)

    def prompt_computed(self, seconds: float) -> None:
        """Add the seconds that a prompt's computation took, for llama-server's metrics."""
        self._llama_server.prompt.seconds += seconds

    def reply_ended(self, seconds: float) -> None:
        """Add the seconds from a request's first token to its reply's end, for llama-server's metrics."""
        self._llama_server.generated.seconds += seconds

    def first_token_buckets(self) -> Buckets:
        """The times to a first token so far, of all engines."""
        models = self._models.values()
        return _sum_buckets([requests.first_token_seconds for model in models for requests in model.totals])

    def inter_token_buckets(self) -> Buckets:
        """The times between tokens so far, of all engines."""
        models = self._models.values()
        return _sum_buckets([figures.token_gaps for model in models for figures in model.figures()])

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return "".join(self.lines()).encode()

    def lines(self) -> Iterable[str]:
        """The same in pieces, as of the first one: with many models all of them together take long."""
        models = list(self._models.values())
        figures = {model.name: model.figures() for model in models}
        shows_unloaded = len(models) <= _MAX_UNLOADED_MODELS
        views = [
            ((str(number), model.name), EngineView(each, model.requests(number), model.engine.model_info))
            for model in models
            if model.engine.engine_starts or shows_unloaded
            for number, each in enumerate(figures[model.name])
        ]
        yield from expose(VLLM_METRICS, ENGINE_LABELS, views)
        yield from expose(ENGINE_METRICS, ENGINE_LABELS, views)
        yield from expose(LINK_METRICS, ENGINE_LABELS, views)
        yield from expose(MODEL_METRICS, MODEL_LABELS, [((model.name,), model.load) for model in models])
        yield from expose(SERVER_METRICS, (), [((), self._server_view(figures))])
        everything = [each for found in figures.values() for each in found]
        yield from expose(DEVICE_METRICS, (), [((), all_devices(self.read_devices(), everything))])
        llama_server = LlamaServerView(
            self._llama_server,
            sum((each.counters for each in everything), EngineCounters()),
            sum(each.running for each in everything),
            sum(each.waiting for each in everything),
        )
        yield from expose(LLAMA_SERVER_METRICS, (), [((), llama_server)])

    def _server_view(self, models: Mapping[str, list[EngineFigures]]) -> ServerView:
        figures = [each for found in models.values() for each in found]
        return ServerView(
            responses=self._responses,
            errors=self._errors,
            refusals=self._refusals,
            log_lines_dropped=log_writer.dropped(),
            engine_starts=sum(model.engine.engine_starts for model in self._models.values()),
            ready=self._takes_requests(figures),
            stalled=sum(each.stalled for each in figures),
            connections=self.connections,
            queue=self.queue,
            starts=self._lives_of(lambda lives, child: lives.starts(child)),
            hangs=self._lives_of(lambda lives, child: lives.hangs(child)),
            processes=_processes(_named(models, several=self._several)),
            throttling=max(self.read_throttling(), key=lambda each: each.seconds, default=None),
        )

    def _takes_requests(self, figures: list[EngineFigures]) -> bool:
        if self.is_ready is not None:
            return self.is_ready()
        return any(each.connected and not each.stalled for each in figures)

    def _lives_of(self, count: Callable[[Lives, int], int]) -> Labelled:
        lives = self.lives
        children = {"http": 0}
        for model in self._models.values():
            first = model.load.figures.first_child
            for number in range(len(model.totals)):
                name = _engine_name(model.name, number, several=self._several)
                children[name] = first + number if first >= 0 else -1
        return {name: 0 if lives is None else count(lives, child) for name, child in children.items()}


def _sum_buckets(histograms: list[Histogram]) -> Buckets:
    columns = [histogram.buckets() for histogram in histograms]
    bounds = tuple(float(bound) for bound, _ in columns[0])
    return bounds, tuple(sum(row) for row in zip(*([count for _, count in column] for column in columns), strict=True))


#: Codes of refusals, which are there from the first scrape on.
REFUSALS = (
    "queue_full",
    "rate_limit_exceeded",
    "too_many_connections",
    "engine_unavailable",
    "queue_timeout",
    "first_token_timeout",
    "request_timeout",
    "shutting_down",
)


def _error_codes() -> list[str]:
    """The codes of all request errors, those that a class has by itself."""
    found = ["other", RequestError.type]
    classes = [RequestError]
    while classes:
        each = classes.pop()
        classes += each.__subclasses__()
        if each.code is not None and each.code not in found:
            found.append(each.code)
    return found


def _named(models: Mapping[str, list[EngineFigures]], *, several: bool) -> dict[str, EngineFigures]:
    """The engines by their processes' names."""
    return {
        _engine_name(name, number, several=several): each
        for name, figures in models.items()
        for number, each in enumerate(figures)
    }


def _engine_name(model: str, number: int, *, several: bool) -> str:
    """The name of an engine's process; ``several``: whether several models are served."""
    if not several:
        return f"engine {number}"
    return f"engine {model} {number}" if number else f"engine {model}"


def _processes(engines: Mapping[str, EngineFigures]) -> dict[str, ProcessStats]:
    """The server's processes by their names. An engine's CPU time has that of its sandboxes in it: otherwise the sum
    would fall when one ends.
    """
    found: dict[str, ProcessStats] = {}
    for name, pid in (("http", os.getpid()), ("supervisor", os.getppid())):
        if (stats := read_process(pid)) is not None:
            found[name] = stats
    sandbox_bytes = 0
    for name, figure in engines.items():
        if figure.pid is None or (stats := read_process(figure.pid)) is None:
            continue
        sandboxes = [stats for pid in child_pids(figure.pid) if (stats := read_process(pid)) is not None]
        sandbox_bytes += sum(sandbox.resident_bytes for sandbox in sandboxes)
        seconds = sum(process.cpu_seconds or 0.0 for process in (stats, *sandboxes))
        found[name] = replace(stats, cpu_seconds=seconds)
    found["sandboxes"] = ProcessStats(resident_bytes=sandbox_bytes)
    return found
