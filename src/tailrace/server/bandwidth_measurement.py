"""The machine's memory bandwidth: from the user's state folder, or measured once while the server is idle.

A measurement takes about a second on the engine's CPUs, so it runs only where ``/stats`` is read while no request and
no other program runs. It is dropped where one has come meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec
import structlog

from tailrace.diagnosis.measured_bandwidth import BandwidthStore, MeasuredBandwidth
from tailrace.diagnosis.sample import Interval, Sample
from tailrace.machine import cpulist

#: Seconds after which a measurement is given up.
_MEASURING_SECONDS = 30.0
#: Measurements that may fail: after them, the bandwidth stays unknown.
_MAX_FAILURES = 3
#: CPU seconds per second of other programs beside which nothing is measured.
_MAX_FOREIGN = 0.1


class BandwidthMeasurement:
    """See the module. ``record``: the bandwidth; None while it isn't known."""

    def __init__(self, store: BandwidthStore, cpus: frozenset[int], is_busy: Callable[[], bool]) -> None:
        """``cpus``: those that the server may use; empty: nothing is measured."""
        self.record: MeasuredBandwidth | None = None
        self._store = store
        self._cpus = cpus
        self._is_busy = is_busy
        self._task: asyncio.Task[None] | None = None
        self._failures = 0

    def consider(self, before: Sample, after: Sample) -> None:
        """Start to measure if it is time for it."""
        interval = Interval(before, after)
        idle = interval.busy == 0 and interval.foreign_cpu < _MAX_FOREIGN and not self._is_busy()
        is_useful = any(engine.weight_bytes for engine in after.server.engines)
        wanted = self.record is None and is_useful and self._cpus and self._failures < _MAX_FAILURES
        if wanted and idle and self._task is None:
            self._task = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "tailrace.diagnosis.measure_bandwidth",
                cpulist.format_cpus(self._cpus),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                written, _ = await asyncio.wait_for(process.communicate(), _MEASURING_SECONDS)
            except BaseException:
                process.kill()
                raise
            if process.returncode or self._is_busy():
                return  # Another program or a request has used the memory at the same time.
            self.record = msgspec.json.decode(written, type=MeasuredBandwidth)
            self._store.save(self.record)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            self._failures += 1
            structlog.get_logger().warning("the memory bandwidth can't be measured or remembered", error=repr(error))
        finally:
            self._task = None
