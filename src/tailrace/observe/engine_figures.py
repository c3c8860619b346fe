"""What a scrape reads of the engines, and of the server around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from tailrace.observe.buckets import STEP_TOKENS, TOKEN_SECONDS
from tailrace.observe.histogram import Histogram
from tailrace.protocol import EngineCounters, ModelInfo, SpeedComparison, WorkerFigures


@dataclass(frozen=True, kw_only=True)
class EngineFigures:
    """One engine, as of its last heartbeat, and its requests, as of now. The defaults are those of no engine."""

    running: int = 0  #: generations that it works on
    waiting: int = 0  #: generations that it has been sent and that don't run
    queued: int = 0  #: of those, the ones that wait for a slot or for KV cells
    generating_tokens: int = 0  #: tokens so far of replies that haven't ended
    kv_cells: int = 0  #: how many it may have
    kv_cells_used: int = 0
    counters: EngineCounters = field(default_factory=EngineCounters)
    step_tokens: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS) + 1))  #: steps, by their tokens
    token_gaps: Histogram = field(default_factory=lambda: Histogram(TOKEN_SECONDS))  #: time between a reply's tokens
    pid: int | None = None
    connected: bool = False
    stalled: bool = False  #: connected, and silent for too long
    workers: tuple[WorkerFigures, ...] = ()  #: of a model that is divided between devices
    speed: SpeedComparison | None = None  #: the same


class EngineState(Protocol):
    """The engines."""

    def figures(self, replica: int) -> EngineFigures:
        """Those of engine number ``replica``."""
        ...

    @property
    def engine_starts(self) -> int:
        """Engines that have connected since this process's start."""
        ...

    @property
    def model_info(self) -> ModelInfo | None:
        """The last engine's model; None before the first."""
        ...
