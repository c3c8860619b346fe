"""The transfers of states between this process and devices: counts, and the size of a piece.

A piece is moved between two steps, so its time is a gap in all running replies. A link's speed isn't known before, and
changes. So the size follows what pieces have taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.engine.kernels import loader
from tailrace.protocol import EngineCounters

#: Bytes of a piece that is on a device.
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 16 << 10, 256 << 10
#: Seconds that a piece may take. Over a link with a longer round trip it takes two round trips at most.
_PIECE_SECONDS = 0.008


class DeviceTransfers:
    """The transfers of one context. ``has_device``: some of its memory is on a device."""

    def __init__(self, *, has_device: bool) -> None:
        self.has_device = has_device
        self.counters = EngineCounters()
        self.piece_bytes = MAX_PIECE_BYTES  #: of the next piece
        self._fastest = 0.0  #: seconds of the shortest transfer so far: about a round trip

    @property
    def piece_seconds(self) -> float:
        """Seconds that a piece may take."""
        return max(_PIECE_SECONDS, 2 * self._fastest)

    @contextmanager
    def counted(self, *, is_piece: bool = False) -> Iterator[None]:
        """Count what this thread moves while it runs. ``is_piece``: the next piece's size follows its time."""
        if not self.has_device:
            yield
            return
        before = loader.device_bytes()
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        read, written = (after - count for after, count in zip(loader.device_bytes(), before, strict=True))
        if not (read or written):
            return
        counters = self.counters
        if read:
            counters.state_reads += 1
            counters.state_read_bytes += read
            counters.state_read_seconds += seconds
        else:
            counters.state_writes += 1
            counters.state_write_bytes += written
            counters.state_write_seconds += seconds
        self._fastest = min(self._fastest or seconds, seconds)
        if is_piece:
            self._adapt(read + written, seconds)

    def _adapt(self, moved: int, seconds: float) -> None:
        if seconds > self.piece_seconds:
            self.piece_bytes = max(MIN_PIECE_BYTES, min(self.piece_bytes, moved) // 2)
        elif 2 * seconds < self.piece_seconds and 2 * moved > self.piece_bytes:
            self.piece_bytes = min(MAX_PIECE_BYTES, 2 * self.piece_bytes)
