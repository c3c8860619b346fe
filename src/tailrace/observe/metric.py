"""The form of a metric's definition. ``vllm_metrics``, ``own_metrics`` and ``llama_server_metrics`` have the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from tailrace.observe.histogram import Histogram

Kind = Literal["counter", "gauge", "histogram"]
Source = TypeVar("Source")
#: Samples by the values of the metric's own labels.
Labelled = dict[str | tuple[str, ...], float]
Value = float | Histogram | Labelled


class Metric(NamedTuple, Generic[Source]):
    """One metric. ``name`` is as clients see it: that of a counter ends with ``_total``."""

    name: str
    kind: Kind
    help: str
    value: Callable[[Source], Value]  #: made of the source of its table
    labels: tuple[str, ...] = ()  #: its own, beside those of its table


def families(
    metrics: Iterable[Metric[Source]], labels: tuple[str, ...], sources: Sequence[tuple[tuple[str, ...], Source]]
) -> Iterable[Family]:
    """The metrics with the samples of all sources. Each source comes with the values of ``labels``."""
    for metric in metrics:
        family = _family(metric, labels)
        for values, source in sources:
            found = metric.value(source)
            if isinstance(found, Histogram):
                assert isinstance(family, HistogramMetricFamily), f"{metric.name} is no histogram"
                family.add_metric(values, found.buckets(), found.total)
                continue
            assert not isinstance(family, HistogramMetricFamily), f"{metric.name} is a histogram"
            each = found.items() if isinstance(found, dict) else [((), found)]
            for own, value in each:
                family.add_metric((*values, *((own,) if isinstance(own, str) else own)), value)
        yield family


def _family(
    metric: Metric[Source], labels: tuple[str, ...]
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    named = (*labels, *metric.labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name.removesuffix("_total"), metric.help, labels=named)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=named)
    return HistogramMetricFamily(metric.name, metric.help, labels=named)
