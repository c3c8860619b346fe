"""A child process that has a model loaded with certain settings, and measures its speed on request.

Each set of settings needs a process of its own, because OpenMP reads its spin count once. ``Probe`` is the parent's
side, ``main`` the child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tailrace.engine.kernels import loader
from tailrace.errors import ModelError
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.format_comparison import Speed
from tailrace.observe import logs
from tailrace.parent_death import die_with_parent
from tailrace.settings import Settings


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

    backend = create_llama(Path(sys.argv[1]), settings, replica)
    for line in sys.stdin.buffer:
        found = measure_layouts(backend) if line == b"layouts\n" else measure(backend)
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
