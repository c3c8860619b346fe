"""The metrics under tailrace's own name: the engine's step times, errors, connections and processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tailrace.observe.metric import Labelled, Metric, Value
from tailrace.observe.process_stats import ProcessStats
from tailrace.observe.vllm_metrics import EngineView

#: Why the server ends a connection.
CONNECTION_ENDS = ("slow_reader", "slow_head", "slow_body", "silent", "no_place", "shutdown")


class ConnectionCounts(Protocol):
    """The HTTP connections."""

    accepted: int
    refused: int
    unsent: int

    def __len__(self) -> int: ...
    @property
    def ended(self) -> Mapping[str, int]: ...
    @property
    def active(self) -> int: ...


class QueueCounts(Protocol):
    """The requests that have been let in."""

    tokens: int

    @property
    def waiting(self) -> int: ...
    @property
    def callers(self) -> int: ...


class Throttling(Protocol):
    """How often a control group's CPU quota was used up, since the group was made."""

    @property
    def throttled(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class ServerView:
    """The server at a scrape. Processes are by name: supervisor, http, engine 0, sandbox."""

    responses: Labelled  #: by route and status
    errors: Labelled  #: by code
    refusals: Labelled  #: by code
    log_lines_dropped: int
    engine_starts: int
    ready: bool
    stalled: int  #: engines
    connections: ConnectionCounts | None
    queue: QueueCounts | None
    starts: Labelled  #: by process
    hangs: Labelled  #: by process
    processes: Mapping[str, ProcessStats] = field(default_factory=dict)
    throttling: Throttling | None = None  #: of the control group that stood still longest; None without a quota


def _step_parts(view: EngineView) -> Labelled:
    counters = view.figures.counters
    return {
        "schedule": counters.schedule_seconds,
        "decode": counters.decode_seconds,
        "mask_wait": counters.mask_wait_seconds,
        "sample": counters.sample_seconds,
        "publish": counters.publish_seconds,
    }


def _by_direction(read: float, written: float) -> Labelled:
    return {"from_devices": read, "to_devices": written}


def _counter(name: str, text: str, value: Callable[[EngineView], float]) -> Metric[EngineView]:
    return Metric(f"tailrace:{name}_total", "counter", text, value)


ENGINE_METRICS: tuple[Metric[EngineView], ...] = (
    _counter("engine_steps", "Steps of the engine", lambda v: v.figures.counters.steps),
    Metric(
        "tailrace:engine_step_seconds_total",
        "counter",
        "Time of the engine's steps: schedule, decode (the model's pass), mask_wait, sample, publish",
        _step_parts,
        ("part",),
    ),
    Metric(
        "tailrace:engine_longest_step_seconds",
        "gauge",
        "The longest step since the engine's start",
        lambda v: v.figures.counters.longest_step_seconds,
    ),
    _counter("engine_embedding_seconds", "Time of embedding passes", lambda v: v.figures.counters.embedding_seconds),
    Metric(
        "tailrace:engine_state_transfers_total",
        "counter",
        "States, and pieces of states, that were read from devices or written to them",
        lambda v: _by_direction(v.figures.counters.state_reads, v.figures.counters.state_writes),
        ("direction",),
    ),
    Metric(
        "tailrace:engine_state_transfer_bytes_total",
        "counter",
        "Bytes of these transfers",
        lambda v: _by_direction(v.figures.counters.state_read_bytes, v.figures.counters.state_write_bytes),
        ("direction",),
    ),
    Metric(
        "tailrace:engine_state_transfer_seconds_total",
        "counter",
        "Time of these transfers, between steps",
        lambda v: _by_direction(v.figures.counters.state_read_seconds, v.figures.counters.state_write_seconds),
        ("direction",),
    ),
    _counter("engine_prefill_tokens", "Prompt tokens computed", lambda v: v.figures.counters.prefill_tokens),
    _counter("engine_decode_tokens", "Tokens sampled", lambda v: v.figures.counters.decode_tokens),
    _counter(
        "engine_batch_sequences",
        "Sequences of all steps; divided by the steps: the mean batch",
        lambda v: v.figures.counters.batch_sequences,
    ),
    _counter(
        "engine_decode_sequences",
        "Sequences of all steps that decoded",
        lambda v: v.figures.counters.decode_sequences,
    ),
    _counter(
        "engine_batch_tokens",
        "Tokens of all steps, draft tokens included",
        lambda v: v.figures.counters.batch_tokens,
    ),
    _counter("engine_kv_cells_read", "KV cells that attention has read", lambda v: v.figures.counters.kv_cells_read),
    _counter(
        "engine_cancelled",
        "Sequences that the HTTP process has stopped: client gone, stop string, time limit",
        lambda v: v.figures.counters.cancelled,
    ),
    _counter(
        "grammars_compiled", "Grammars compiled, refused ones included", lambda v: v.figures.counters.grammars_compiled
    ),
    _counter("grammar_compile_seconds", "Time of compiling grammars", lambda v: v.figures.counters.grammar_seconds),
    Metric("tailrace:kv_cells", "gauge", "Max cells of the KV cache, one a token", lambda v: v.figures.kv_cells),
    Metric("tailrace:kv_cells_used", "gauge", "Used cells of the KV cache", lambda v: v.figures.kv_cells_used),
    Metric("tailrace:engine_up", "gauge", "1 while the engine is connected", lambda v: float(v.figures.connected)),
    Metric(
        "tailrace:engine_stalled", "gauge", "1 while a connected engine is silent", lambda v: float(v.figures.stalled)
    ),
)


def _of_processes(value: Callable[[ProcessStats], float | None]) -> Callable[[ServerView], Value]:
    def values(view: ServerView) -> Labelled:
        found = {name: value(stats) for name, stats in view.processes.items()}
        return {name: number for name, number in found.items() if number is not None}

    return values


def _connections(view: ServerView) -> Labelled:
    found = view.connections
    return {"active": 0, "idle": 0} if found is None else {"active": found.active, "idle": len(found) - found.active}


def _connection_ends(view: ServerView) -> Labelled:
    found: Labelled = dict.fromkeys(CONNECTION_ENDS, 0.0)
    if view.connections is not None:
        found.update(view.connections.ended)
    return found


SERVER_METRICS: tuple[Metric[ServerView], ...] = (
    Metric(
        "tailrace:http_requests_total",
        "counter",
        "HTTP responses by route and status",
        lambda v: v.responses,
        ("route", "status"),
    ),
    Metric(
        "tailrace:errors_total",
        "counter",
        "Requests that ended with an error, by its code",
        lambda v: v.errors,
        ("code",),
    ),
    Metric(
        "tailrace:refusals_total",
        "counter",
        "Requests that were refused for want of capacity or time, or over a limit",
        lambda v: v.refusals,
        ("reason",),
    ),
    Metric(
        "tailrace:ready",
        "gauge",
        "1 while requests are taken: an engine makes progress, or models are loaded on demand",
        lambda v: float(v.ready),
    ),
    Metric(
        "tailrace:engine_starts_total",
        "counter",
        "Engines that have connected since the HTTP process's start",
        lambda v: v.engine_starts,
    ),
    Metric(
        "tailrace:queue_requests",
        "gauge",
        "Requests that have been let in and are more than the engines run",
        lambda v: 0 if v.queue is None else v.queue.waiting,
    ),
    Metric(
        "tailrace:queue_tokens",
        "gauge",
        "Prompt tokens that have been let in and aren't computed",
        lambda v: 0 if v.queue is None else v.queue.tokens,
    ),
    Metric(
        "tailrace:queue_callers",
        "gauge",
        "Keys or addresses with requests that wait or run",
        lambda v: 0 if v.queue is None else v.queue.callers,
    ),
    Metric(
        "tailrace:connections",
        "gauge",
        "Open connections: with a request (active), or without",
        _connections,
        ("state",),
    ),
    Metric(
        "tailrace:connections_accepted_total",
        "counter",
        "Connections so far",
        lambda v: 0 if v.connections is None else v.connections.accepted,
    ),
    Metric(
        "tailrace:connections_refused_total",
        "counter",
        "Connections for which there was no place",
        lambda v: 0 if v.connections is None else v.connections.refused,
    ),
    Metric(
        "tailrace:connections_ended_total",
        "counter",
        "Connections that the server has ended: clients that read or send too slowly, are silent or lack a place",
        _connection_ends,
        ("reason",),
    ),
    Metric(
        "tailrace:unsent_bytes",
        "gauge",
        "Bytes that wait for clients to read them",
        lambda v: 0 if v.connections is None else v.connections.unsent,
    ),
    Metric(
        "tailrace:process_starts_total",
        "counter",
        "How often the supervisor has started a process",
        lambda v: v.starts,
        ("process",),
    ),
    Metric(
        "tailrace:process_hangs_total",
        "counter",
        "How often a process hung and was replaced",
        lambda v: v.hangs,
        ("process",),
    ),
    Metric(
        "tailrace:log_lines_dropped_total",
        "counter",
        "Log lines of the HTTP process that were dropped because nothing read them",
        lambda v: v.log_lines_dropped,
    ),
    Metric(
        "tailrace:process_cpu_seconds_total",
        "counter",
        "CPU time of a process and of its ended children",
        _of_processes(lambda stats: stats.cpu_seconds),
        ("process",),
    ),
    Metric(
        "tailrace:process_resident_memory_bytes",
        "gauge",
        "Resident memory",
        _of_processes(lambda stats: stats.resident_bytes),
        ("process",),
    ),
    Metric("tailrace:process_threads", "gauge", "Threads", _of_processes(lambda stats: stats.threads), ("process",)),
    Metric(
        "tailrace:process_open_fds", "gauge", "Open files", _of_processes(lambda stats: stats.open_fds), ("process",)
    ),
    Metric(
        "tailrace:process_max_fds",
        "gauge",
        "How many files may be open",
        _of_processes(lambda stats: stats.max_fds),
        ("process",),
    ),
    Metric(
        "tailrace:process_start_time_seconds",
        "gauge",
        "Start of a process, in Unix time",
        _of_processes(lambda stats: stats.start_seconds),
        ("process",),
    ),
    Metric(
        "tailrace:cpu_throttled_periods_total",
        "counter",
        "Periods in which the control group had used up its CPU quota",
        lambda v: 0 if v.throttling is None else v.throttling.throttled,
    ),
    Metric(
        "tailrace:cpu_throttled_seconds_total",
        "counter",
        "Time for which the control group was kept from its CPUs",
        lambda v: 0.0 if v.throttling is None else v.throttling.seconds,
    ),
)
