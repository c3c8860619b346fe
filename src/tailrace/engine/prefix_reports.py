"""Reports of what a router must know of this engine: the prefixes that it holds, the work that waits, and its speed.

The loop calls ``report`` between its steps. Nine of ten calls read one number; the others look at what has changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tailrace.cluster_protocol.prefix_chain import pack_hashes
from tailrace.cluster_protocol.state import CHANGE_SECONDS, TIERS
from tailrace.engine.kv_cache.held_prefixes import HeldPrefixes
from tailrace.engine.kv_cache.prefix_cache import PrefixCache
from tailrace.engine.scheduler.prefill_budget import PrefillBudget
from tailrace.engine.scheduler.scheduler import Scheduler
from tailrace.protocol import PrefixReport

#: Waiting sequences whose cached prefixes are looked up for a report: each takes about 50 µs.
_MAX_LOOKUPS = 8
#: Significant digits of a speed: a speed that changes less isn't reported.
_DIGITS = 2


class PrefixReports:
    """See the module. One for each connection to the HTTP process, which knows nothing before the first report."""

    def __init__(
        self, identity: str, cache: PrefixCache, scheduler: Scheduler, budget: PrefillBudget, bytes_per_cell: int
    ) -> None:
        """``identity``: of the model's prefixes (``ModelInfo.prefix_identity``)."""
        self._held = HeldPrefixes(cache, identity)
        self._cache, self._executor = cache
        self._scheduler = scheduler
        self._budget = budget
        self._bytes_per_cell = bytes_per_cell
        self._next = 0.0
        self._is_due = True  #: whether something may have changed since the last report
        self._last: PrefixReport | None = None

    def seconds_until_due(self, now: float) -> float:
        """How long an idle loop may sleep before the next report."""
        return max(0.0, self._next - now) if self._is_due else math.inf

    def report(self, now: float, publish: Callable[[PrefixReport], None]) -> None:
        """Publish what has changed, if the last report is long enough ago. The loop has made a step, or has waited."""
        if now < self._next:
            self._is_due = True
            return
        self._next = now + CHANGE_SECONDS
        held, removed = self._held.look()
        self._is_due = not self._held.is_complete
        figures = self._figures()
        if not held and not removed and figures == self._last:
            return
        self._last = figures
        blocks: list[list[int]] = [[] for _ in TIERS]
        for block, tier in held.items():
            blocks[TIERS.index(tier)].append(block)
        publish(
            PrefixReport(
                held=tuple(pack_hashes(each) for each in blocks),
                removed=pack_hashes(removed),
                waiting_prompt_tokens=figures.waiting_prompt_tokens,
                free_tokens=figures.free_tokens,
                prefill_speed=figures.prefill_speed,
                decode_speed=figures.decode_speed,
                disk_speed=figures.disk_speed,
            )
        )

    def _figures(self) -> PrefixReport:
        """The report without prefixes."""
        disk = self._executor.disk
        waiting = self._waiting_tokens() + sum(
            sequence.pending for sequence in self._scheduler.running if not sequence.decoding
        )
        return PrefixReport(
            waiting_prompt_tokens=waiting,
            free_tokens=self._cache.free_tokens + (disk.free_bytes // self._bytes_per_cell if disk is not None else 0),
            prefill_speed=_rounded(self._budget.prefill_speed),
            decode_speed=_rounded(self._budget.decode_speed),
            disk_speed=_rounded(disk.read_speed if disk is not None else 0.0),
        )

    def _waiting_tokens(self) -> int:
        """Tokens that sequences that wait for a slot have to compute: those of the first ones without what the cache
        has for them, and of the others in the same proportion.
        """
        queue = list(self._scheduler.waiting)
        looked_at = queue[:_MAX_LOOKUPS]
        tokens = sum(sequence.pending for sequence in looked_at)
        found = sum(self._cache.cached_prefix_len(each.tokens) for each in looked_at if each.reuse_prefix)
        rest = sum(sequence.pending for sequence in queue[_MAX_LOOKUPS:])
        return tokens - found + (rest * (tokens - found) // tokens if tokens else 0)


def _rounded(speed: float) -> float:
    return float(f"{speed:.{_DIGITS}g}")
