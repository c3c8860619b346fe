"""The metrics of a served model that may be loaded and unloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tailrace.observe.metric import Metric
from tailrace.observe.model_figures import LoadFigures


class LoadState(Protocol):
    """One model at a scrape."""

    @property
    def figures(self) -> LoadFigures:
        """What is counted of its loads."""
        ...

    @property
    def is_loaded(self) -> bool:
        """Whether requests can run on it."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that wait for it to be loaded."""
        ...

    @property
    def running(self) -> int:
        """Requests that have it."""
        ...


MODEL_LABELS = ("model_name",)


def _counter(name: str, text: str, value: Callable[[LoadFigures], float]) -> Metric[LoadState]:
    return Metric(f"tailrace:model_{name}_total", "counter", text, lambda model: value(model.figures))


MODEL_METRICS: tuple[Metric[LoadState], ...] = (
    Metric("tailrace:model_loaded", "gauge", "1 while the model is loaded", lambda model: float(model.is_loaded)),
    Metric(
        "tailrace:model_waiting_requests",
        "gauge",
        "Requests that wait until the model is loaded",
        lambda model: model.waiting,
    ),
    Metric("tailrace:model_requests", "gauge", "Requests that use the loaded model", lambda model: model.running),
    Metric(
        "tailrace:model_memory_bytes",
        "gauge",
        "Memory of the model's engines, as the supervisor has measured it",
        lambda model: model.figures.bytes,
    ),
    _counter("loads", "How often the model was loaded", lambda figures: figures.loads),
    _counter("load_seconds", "Time from each order to load it until its engine answered", lambda f: f.load_seconds),
    _counter("unloads", "How often the model was unloaded", lambda figures: figures.unloads),
    _counter("load_failures", "How often the model couldn't be loaded", lambda figures: figures.failures),
)
