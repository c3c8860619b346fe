"""The form of a metric's definition. ``vllm_metrics``, ``own_metrics`` and ``llama_server_metrics`` have the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar

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
