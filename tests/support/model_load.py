"""A served model for the metrics, without a service."""

from __future__ import annotations

from dataclasses import dataclass, field

from tailrace.observe.model_figures import LoadFigures


@dataclass
class Load:
    """See ``observe.model_metrics.LoadState``."""

    figures: LoadFigures = field(default_factory=LoadFigures)
    is_loaded: bool = True
    waiting: int = 0
    running: int = 0
