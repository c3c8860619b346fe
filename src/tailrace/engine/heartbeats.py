"""The heartbeats of an engine's loop: its gauges now, and the counters of all its parts since the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tailrace.engine.devices.speed_watch import SpeedWatch
from tailrace.engine.devices.worker_links import WorkerLinks
from tailrace.engine.helper_thread import HelperThread, report_longest
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.step_accounting import StepAccounting
from tailrace.protocol import EngineCounters, Heartbeat
from tailrace.shared_memory.progress_page import ProgressPage

Publish = Callable[[Heartbeat], None]


class Heartbeats:
    """See the module. The loop decides when. With each, the page gets the memory that the caches may still take."""

    def __init__(
        self,
        scheduler: Scheduler,
        cache: PrefixCache,
        accounting: StepAccounting,
        page: ProgressPage,
        *,
        bytes_per_cell: int,
        helpers: Iterable[HelperThread],
        worker_links: WorkerLinks | None,
        speed_watch: SpeedWatch | None,
    ) -> None:
        """``helpers``: the threads beside the loop, to which others may be added. The rest is as the loop has it."""
        self._scheduler = scheduler
        self._cache = cache
        self._accounting = accounting
        self._page = page
        self._bytes_per_cell = bytes_per_cell
        self._helpers = helpers
        self._worker_links = worker_links
        self._speed_watch = speed_watch
        self._counters: list[EngineCounters] = [accounting.counters, scheduler.counters]
        self._published = (0, 0)  #: running and waiting sequences in the last one
        self._report_growth()

    def include(self, counters: EngineCounters) -> None:
        """Include the counters of one more part, which goes on counting in them."""
        self._counters.append(counters)

    def now(self) -> Heartbeat:
        """One that isn't published."""
        running, waiting = self._queue()
        return Heartbeat(
            running=running,
            waiting=waiting,
            kv_cells_used=self._cache.accounting.used_cells,
            counters=sum(self._counters, EngineCounters()),
            step_tokens=self._accounting.step_tokens,
            longest_step=self._page.longest,
            stuck=report_longest(self._helpers, self._page),
            workers=() if self._worker_links is None else self._worker_links.figures(),
            speed=None if self._speed_watch is None else self._speed_watch.figures,
        )

    def publish(self, publish: Publish) -> None:
        """Publish one."""
        self._report_growth()
        self._published = self._queue()
        publish(self.now())

    def publish_change(self, publish: Publish) -> None:
        """Publish one if other numbers of sequences run or wait than in the last one."""
        if self._queue() != self._published:
            self.publish(publish)

    def _queue(self) -> tuple[int, int]:
        return len(self._scheduler.running), len(self._scheduler.waiting)

    def _report_growth(self) -> None:
        self._page.growth = self._cache.growth_bytes(self._bytes_per_cell)
