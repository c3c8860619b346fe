"""Plans a step and makes the model's cache follow the plan. It computes nothing and publishes nothing."""

from __future__ import annotations

import structlog

from tailrace.engine.kv_cache.cache_op_executor import Applied
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.long_gaps import LongGaps
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.engine.scheduler.step_plan import Plan
from tailrace.engine.sequence import Sequence


class StepPlanner:
    """Plans the steps of one scheduler and its cache."""

    def __init__(self, scheduler: Scheduler, cache: PrefixCache, budget: PrefillBudget, gaps: LongGaps) -> None:
        """``gaps`` gets the time of planning and of the cache ops."""
        self._scheduler = scheduler
        self._cache, self._executor = cache
        self._budget = budget
        self._gaps = gaps

    def plan(self, *, moving: bool) -> tuple[Plan, Sequence | None]:
        """The coming step, whose cache ops are applied. ``moving``: states move after it.

        Where the model has no memory for a new layout, the step is planned again without it. A sequence that can't run
        at all then comes with it, and the plan is void.
        """
        while True:
            if self._scheduler.waiting:
                self._executor.refresh_floors()
            n_decoding = len(self._scheduler.decoding)
            plan = self._scheduler.plan(
                self._budget.mixed(n_decoding, moving=moving),
                self._budget.last_chunk(n_decoding),
                self._budget.first_prompt(),
            )
            self._gaps.mark("schedule")
            applied = self._executor.apply(plan.cache_ops, beside=n_decoding > 0)
            self._gaps.note(plan.cache_ops)
            self._gaps.mark("cache ops")
            if applied.failed is None:
                break
            if (failed := self._undo_relayout(plan, applied)) is not None:
                return plan, failed
        if applied.lost:
            self._scheduler.mark_lost(applied.lost)
        if self._cache.loading:
            plan.scheduled = [entry for entry in plan.scheduled if entry[0].slot not in self._cache.loading]
        return plan, None

    def _undo_relayout(self, plan: Plan, applied: Applied) -> Sequence | None:
        """The plan's new layout has failed: all sequences wait again. The one that can't run without it, if any."""
        assert applied.failed is not None
        failed, emptied = self._scheduler.undo_relayout(plan, applied.failed, applied.lost)
        self._executor.empty(emptied)
        structlog.get_logger().warning(
            "no memory for a larger KV cache",
            cells=applied.failed.layout.total,
            stays_at=applied.failed.previous.total,
        )
        return failed
