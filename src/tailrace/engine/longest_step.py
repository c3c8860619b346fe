"""The longest step of an engine, by which the supervisor judges a silence. Estimated at first, measured afterwards."""

from __future__ import annotations

from tailrace.engine.backends.base import Backend
from tailrace.shared_memory.progress_page import ProgressPage

#: Bytes a second at which the KV cache's content moves to another layout, at least: it is copied twice.
_MOVED_BYTES = 2.5e9
#: A pass of this part of the largest one shows how long the largest takes.
_LARGE_PASS_PART = 0.5


class LongestStep:
    """Reports the longest step in the page. Before a large pass was measured, its estimate counts as well."""

    def __init__(self, page: ProgressPage, backend: Backend, prefill_chunk: int) -> None:
        """``prefill_chunk``: prompt tokens of the largest pass. The page may have steps of an earlier connection."""
        self._page = page
        # The move of the whole cache is a step that no other step foretells.
        moved = backend.layout_policy.max_cells * backend.bytes_per_cell
        self._measured = moved / _MOVED_BYTES
        self._large = _LARGE_PASS_PART * prefill_chunk
        self.is_estimated = True  #: whether every step has to be observed, not only a longer one
        page.longest = max(page.longest, self._measured, backend.first_step_seconds)

    def observe(self, seconds: float, tokens: int) -> None:
        """A step with ``tokens`` tokens took ``seconds``."""
        self._measured = max(self._measured, seconds)
        if self.is_estimated and tokens >= self._large:
            self.is_estimated = False
            self._page.longest = self._measured
        elif seconds > self._page.longest:
            self._page.longest = seconds
