"""Collects the tokens that each key uses, and stores them some seconds later, on a thread.

``usage_store`` has the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from tailrace.server.keys.usage_store import UsageStore, read_day
from tailrace.server.store_thread import StoreThread

#: Seconds for which use is collected before it is stored.
_STORE_SECONDS = 5.0


class DailyUse:
    """See the module. For the event loop."""

    def __init__(self, file: Path, on_totals: Callable[[str, Mapping[str, int]], None]) -> None:
        """``on_totals`` is called, on the loop, with a day's use of each key as it is stored."""
        self._file = file
        self._store = UsageStore(file)
        self._thread: StoreThread | None = None  #: from the first use on
        self._on_totals = on_totals
        self._collected: dict[tuple[str, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def counter(self, key: str) -> Callable[[str, int], None]:
        """Counts tokens of the key with this id: a day, and a number of tokens."""

        def count(day: str, tokens: int) -> None:
            at = (key, day)
            self._collected[at] = self._collected.get(at, 0) + tokens
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_STORE_SECONDS, self._flush)

        return count

    def of_day(self, day: str) -> dict[str, int]:
        """Each key's tokens of the day. Reads the file: for starts and reloads."""
        return read_day(self._file, day)

    def close(self) -> None:
        """Store the rest."""
        if self._timer is not None:
            self._timer.cancel()
        if self._collected:
            self._flush()
        if self._thread is not None:
            self._thread.close(self._store.close)

    def _flush(self) -> None:
        self._timer = None
        collected, self._collected = self._collected, {}
        if self._thread is None:
            self._thread = StoreThread("key-usage", "the keys' use couldn't be stored")
        self._thread.submit(self._add, asyncio.get_running_loop(), collected)

    def _add(self, loop: asyncio.AbstractEventLoop, collected: Mapping[tuple[str, str], int]) -> None:
        if not self._store.add(collected):
            return
        day = max(day for _, day in collected)
        totals = read_day(self._file, day)
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._on_totals, day, totals)
