"""A child process that has a model loaded with certain settings, and measures its speed on request.

Each set of settings needs a process of its own, because OpenMP reads its spin count once. ``Probe`` is the parent's
side, ``main`` the child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from tailrace.engine.devices.worker_watch import connect_workers
from tailrace.engine.kernels import loader
from tailrace.errors import ModelError, TailraceError
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.format_comparison import Speed
from tailrace.observe import logs
from tailrace.own_process.parent_death import die_with_parent
from tailrace.settings import Settings
from tailrace.shared_memory.progress_page import ProgressPage
from tailrace.tuning.placement_neighbours import PlacedParts

if TYPE_CHECKING:
    from tailrace.engine.backends.llama import LlamaBackend


#: The beginning of the answer of a process that can't load the model; the reason follows.
_REFUSED = b"refused: "


def median_figures(speeds: Sequence[Speed]) -> tuple[float, float, float]:
    """The medians of what several rounds measured, in the order of ``TuningRow.figures``."""
    return (
        median(speed.prefill for speed in speeds),
        median(speed.decode for speed in speeds),
        median(speed.decode_batched for speed in speeds),
    )


class Probe:
    """A model that is loaded with certain settings in a child process. Use it as a context manager."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Start a process that loads the file ``path`` with ``settings`` and their plan."""
        self._name = path.name
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace.tuning.probe", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # If this process has loaded the binding, the variable has this process's value and would override the plan.
            env={name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"},
        )
        self._send(msgspec.json.encode(settings))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self) -> Speed:
        """Measure the speed once. Raises ModelError when the process has died."""
        return msgspec.json.decode(self._ask(b"speed"), type=Speed)

    def measure_layouts(self) -> dict[str, Speed]:
        """Measure both KV layouts once. Raises ModelError when the process has died."""
        return msgspec.json.decode(self._ask(b"layouts"), type=dict[str, Speed])

    def placement(self) -> PlacedParts:
        """The placement that the model was loaded with. Raises ModelError when the process has died."""
        return msgspec.json.decode(self._ask(b"placement"), type=PlacedParts)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # The process has ended already.
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: bytes) -> bytes:
        self._send(request)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(f"{self._name} can't be measured: its process ended (its last words stand above)")
        if line.startswith(_REFUSED):
            raise ModelError(line.removeprefix(_REFUSED).decode().strip())
        return line

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The process has ended: reading its answer raises the error.


def main() -> None:
    """Read the settings from the first line of standard input, and measure once for each further line."""
    die_with_parent()
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    logs.configure("probe", level="warning", form="console")
    replica = make_plan(read_topology(), settings).replicas[0]
    set_spin_count(replica.decode.poll)
    loader.choose(settings.kernels)
    # This import loads OpenMP, which reads the spin count.
    from tailrace.engine.backends.create_llama import create_llama
    from tailrace.engine.weights.speed import measure, measure_layouts

    try:
        watch = connect_workers(settings, ProgressPage(), first=True)
        backend = create_llama(Path(sys.argv[1]), settings, replica, workers={} if watch is None else watch.statuses)
    except TailraceError as error:
        for _ in sys.stdin.buffer:
            _answer(_REFUSED + str(error).replace("\n", " ").encode())
        return
    requests: dict[bytes, Callable[[], object]] = {
        b"speed": lambda: measure(backend),
        b"layouts": lambda: measure_layouts(backend),
        b"placement": lambda: _placed_parts(backend),
    }
    for line in sys.stdin.buffer:
        _answer(msgspec.json.encode(requests[line.strip()]()))


def _answer(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _placed_parts(backend: LlamaBackend) -> PlacedParts:
    placed = backend.placed
    assert placed is not None, "a placement is asked for where devices are set"
    return PlacedParts(
        names=tuple(device.name for device in placed.plan.devices),
        homes=placed.placement.homes,
        feeds=placed.plan.feed_devices(),
        output=placed.placement.output,
        has_experts=placed.plan.parts.has_experts,
    )


if __name__ == "__main__":
    main()
