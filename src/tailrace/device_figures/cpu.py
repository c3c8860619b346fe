"""The figures of this machine's CPU: its memory, the part of the time in which it computed, its hottest sensor."""

from __future__ import annotations

import time
from pathlib import Path

from tailrace.device_figures.sensors import cpu_heat
from tailrace.machine.free_memory import available_memory, read_memory
from tailrace.machine.topology import read_topology
from tailrace.observe.kernel_file import read_fields
from tailrace.worker_protocol.device_reading import DeviceReading

#: Seconds that two readings of CPU time are apart at least, so that clock ticks of 10 ms don't matter.
_MIN_SECONDS = 0.9


class CpuFigures:
    """See the module. Its use is the mean since the reading before."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._model = read_topology(root).model or ""
        self._memory = read_memory(root).total
        self._times = _cpu_times(root)
        self._read_at = time.monotonic()
        self._use: float | None = None

    def read(self) -> list[DeviceReading]:
        """The CPU now. Its first reading has no use where it follows at once."""
        heat = cpu_heat(self._root)
        reading = DeviceReading(
            device="cpu",
            description=self._model,
            memory=self._memory,
            free=min(self._memory, available_memory(self._root)),
            use=self._mean_use(),
            temperature=heat.temperature,
            temperature_limit=heat.limit,
        )
        return [reading]

    def _mean_use(self) -> float | None:
        now = time.monotonic()
        if now - self._read_at >= _MIN_SECONDS:
            times, before = _cpu_times(self._root), self._times
            self._times, self._read_at = times, now
            if times is not None and before is not None and times[1] > before[1]:
                self._use = min(1.0, max(0.0, (times[0] - before[0]) / (times[1] - before[1])))
        return self._use


def _cpu_times(root: Path) -> tuple[int, int] | None:
    """Clock ticks of all CPUs since the start: computing, and altogether. None where there is no /proc.

    Columns of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal; guests' time is in user's.
    """
    words = read_fields(root / "proc/stat").get("cpu", "").split()[:8]
    if len(words) < 8:
        return None
    ticks = [int(word) for word in words]
    return sum(ticks) - ticks[3] - ticks[4] - ticks[7], sum(ticks)
