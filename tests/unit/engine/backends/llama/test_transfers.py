"""The size of a piece follows what pieces take on a link."""

from __future__ import annotations

import time

import pytest

from tailrace.engine.backends.llama.transfers import MAX_PIECE_BYTES, MIN_PIECE_BYTES, DeviceTransfers
from tailrace.engine.kernels import loader


class Link:
    """A link with a round trip of ``latency`` seconds, of ``bandwidth`` bytes a second, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, latency: float, bandwidth: float) -> None:
        self._latency, self._bandwidth = latency, bandwidth
        self._now, self._read = 0.0, 0
        monkeypatch.setattr(time, "perf_counter", lambda: self._now)
        monkeypatch.setattr(loader, "device_bytes", lambda: (self._read, 0))

    def move(self, found: DeviceTransfers, size: int, *, is_piece: bool = True) -> float:
        """Read ``size`` bytes; the seconds that it took."""
        seconds = self._latency + size / self._bandwidth
        with found.counted(is_piece=is_piece):
            self._now += seconds
            self._read += size
        return seconds


@pytest.mark.parametrize(
    ("latency", "bandwidth", "expected"),
    [
        (0.00005, 2e9, range(MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1)),
        (0.0005, 11.7e6, range(32_768, 131_072)),
        (0.02, 11.7e6, range(MIN_PIECE_BYTES, MAX_PIECE_BYTES + 1)),
        (0.001, 1e5, range(MIN_PIECE_BYTES, MIN_PIECE_BYTES + 1)),
    ],
    ids=["loopback", "100 Mbit/s", "far away", "very slow"],
)
def test_a_piece_takes_little_time(
    monkeypatch: pytest.MonkeyPatch, latency: float, bandwidth: float, expected: range
) -> None:
    link = Link(monkeypatch, latency, bandwidth)
    found = DeviceTransfers(has_device=True)
    link.move(found, 64, is_piece=False)
    for _ in range(20):
        seconds = link.move(found, found.piece_bytes)
    assert found.piece_bytes in expected
    assert seconds <= max(2 * found.piece_seconds, latency + MIN_PIECE_BYTES / bandwidth)
    counters = found.counters
    assert counters.state_reads == 21
    assert counters.state_read_bytes > 20 * MIN_PIECE_BYTES
    assert counters.state_writes == 0


def test_nothing_is_counted_where_nothing_is_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = DeviceTransfers(has_device=False)
    Link(monkeypatch, 0.1, 1e6).move(found, 1000)
    assert found.counters.state_reads == 0
    assert found.piece_bytes == MAX_PIECE_BYTES
