"""The ingress's own metrics: its requests, the replicas as it sees them, and its process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from tailrace.cluster.metrics.request_counts import ModelCounts
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_protocol.state import TIERS, ModelLoad, ReplicaPhase
from tailrace.observe.exposition import expose
from tailrace.observe.metric import Labelled, Metric
from tailrace.observe.process_stats import ProcessStats

#: Phases of replicas at the ingress. ``behind``: its next message is overdue; ``gone``: its channel is lost.
PHASES = (*get_args(ReplicaPhase), "behind", "gone")


@dataclass(frozen=True)
class ReplicaSource:
    """One replica at a scrape."""

    view: ReplicaView
    requests: int  #: that it works on for this ingress
    load: ModelLoad | None  #: of the model that the row is about


@dataclass(frozen=True)
class ModelSource:
    """One model at a scrape."""

    counts: ModelCounts
    waiting: int  #: requests that wait for a replica
    max_replicas: int  #: 0: not known
    replicas: Sequence[ReplicaView] = ()


@dataclass(frozen=True, kw_only=True)
class IngressSource:
    """The ingress at a scrape."""

    ready: bool
    managed: bool  #: the process that manages the replicas is there
    requests: int  #: that are being relayed
    errors: Labelled
    process: ProcessStats | None
    unread: int = 0  #: how often a replica's metrics couldn't be read
    left_out_lines: int = 0


def phase_of(view: ReplicaView) -> str:
    """The replica's phase as ``PHASES`` has it."""
    return "gone" if view.gone else "behind" if view.behind else view.phase


def _phases(model: ModelSource) -> Labelled:
    found = Counter(map(phase_of, model.replicas))
    return {phase: found[phase] for phase in PHASES}


def _tiers(replica: ReplicaSource) -> Labelled:
    found = Counter(replica.view.held.values())
    return {tier: found[tier] for tier in TIERS}


def _known(value: float | None) -> float | Labelled:
    """The sample, or none where the value isn't known."""
    return {} if value is None else value


INGRESS_METRICS: tuple[Metric[IngressSource], ...] = (
    Metric("tailrace:cluster_ready", "gauge", "1 while the ingress takes requests", lambda each: float(each.ready)),
    Metric(
        "tailrace:cluster_managed",
        "gauge",
        "1 while the process that manages the replicas by Ray is there",
        lambda each: float(each.managed),
    ),
    Metric("tailrace:cluster_open_requests", "gauge", "Requests that the ingress works on", lambda each: each.requests),
    Metric(
        "tailrace:cluster_errors_total",
        "counter",
        "Errors that the ingress has answered with itself, by code",
        lambda each: each.errors,
        ("code",),
    ),
    Metric(
        "tailrace:cluster_unread_metrics_total",
        "counter",
        "How often a replica's metrics were left out: it didn't answer in time, or with too many bytes",
        lambda each: each.unread,
    ),
    Metric(
        "tailrace:cluster_unread_lines_total",
        "counter",
        "Lines of replicas' metrics that were left out, because they aren't in the format",
        lambda each: each.left_out_lines,
    ),
    Metric(
        "tailrace:cluster_ingress_cpu_seconds_total",
        "counter",
        "CPU time of the ingress",
        lambda each: _known(each.process.cpu_seconds if each.process is not None else None),
    ),
    Metric(
        "tailrace:cluster_ingress_resident_memory_bytes",
        "gauge",
        "Resident memory of the ingress",
        lambda each: _known(each.process.resident_bytes if each.process is not None else None),
    ),
)

MODEL_METRICS: tuple[Metric[ModelSource], ...] = (
    Metric(
        "tailrace:cluster_requests_total",
        "counter",
        "Forwarded requests by replica and result: completed, refused, failed, replica_lost, no_replica, client_gone",
        lambda each: each.counts.requests,
        ("replica", "result"),
    ),
    Metric(
        "tailrace:cluster_retries_total",
        "counter",
        "How often a request went to another replica, because no engine had begun with it",
        lambda each: each.counts.retries,
    ),
    Metric(
        "tailrace:cluster_wake_ups_total",
        "counter",
        "Requests that found no replica of a model that sleeps",
        lambda each: each.counts.wake_ups,
    ),
    Metric(
        "tailrace:cluster_prompt_tokens_total",
        "counter",
        "Prompt tokens of requests that were routed by their prefix",
        lambda each: each.counts.prompt_tokens,
    ),
    Metric(
        "tailrace:cluster_held_tokens_total",
        "counter",
        "Those of them that the chosen replica held",
        lambda each: each.counts.held_tokens,
    ),
    Metric(
        "tailrace:cluster_probe_seconds",
        "histogram",
        "Time in which a replica names a prompt's prefix",
        lambda each: each.counts.probe_seconds,
    ),
    Metric("tailrace:cluster_waiting_requests", "gauge", "Requests that wait for a replica", lambda each: each.waiting),
    Metric("tailrace:cluster_replicas", "gauge", "Replicas by phase", _phases, ("phase",)),
    Metric(
        "tailrace:cluster_max_replicas",
        "gauge",
        "Max replicas of the model; 0: not known",
        lambda each: each.max_replicas,
    ),
)

REPLICA_METRICS: tuple[Metric[ReplicaSource], ...] = (
    Metric(
        "tailrace:cluster_replica_up",
        "gauge",
        "1 while the replica's state channel is open and in time",
        lambda each: float(not (each.view.gone or each.view.behind)),
    ),
    Metric(
        "tailrace:cluster_replica_requests",
        "gauge",
        "Requests that the replica works on for this ingress",
        lambda each: each.requests,
    ),
    Metric(
        "tailrace:cluster_replica_waiting_prompt_tokens",
        "gauge",
        "Prompt tokens that the replica has still to compute",
        lambda each: each.load.waiting_prompt_tokens if each.load is not None else 0,
    ),
    Metric(
        "tailrace:cluster_replica_prefix_blocks",
        "gauge",
        "Prefix blocks that the replica holds, by tier",
        _tiers,
        ("tier",),
    ),
)


def own_lines(
    ingress: IngressSource,
    models: Mapping[str, ModelSource],
    replicas: Iterable[tuple[str, str, ReplicaSource]],
) -> Iterator[str]:
    """The ingress's own metrics. ``models`` by name; each of ``replicas`` with its model's name and its id."""
    yield from expose(INGRESS_METRICS, (), [((), ingress)])
    yield from expose(MODEL_METRICS, ("model",), [((name,), source) for name, source in models.items()])
    rows = [((model, replica), source) for model, replica, source in replicas]
    yield from expose(REPLICA_METRICS, ("model", "replica"), rows)
