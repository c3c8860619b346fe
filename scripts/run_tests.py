"""Runs the tests in two lanes side by side: one process of pytest each.

    python scripts/run_tests.py [ARGUMENT ...]

A lane waits for server processes most of the time, so two of them take two thirds of the time of one. With arguments
there is one pytest, which gets them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from typing import IO

#: Folders of each lane: about the same time each.
LANES = {
    "processes": ("tests/process", "tests/native"),
    "wire": ("tests/contract", "tests/unit", "tests/clients", "tests/faults"),
}
_PYTEST = (sys.executable, "-m", "pytest")
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


class Lane:
    """A running pytest. Its lines are printed as they come, with the lane's name before them."""

    def __init__(self, name: str, folders: list[str]) -> None:
        self.name = name
        self.last_line = ""
        self._process = subprocess.Popen(
            [*_PYTEST, *folders], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert self._process.stdout is not None
        self._printer = threading.Thread(target=self._print, args=(self._process.stdout,))
        self._printer.start()

    def _print(self, output: IO[str]) -> None:
        with output:
            for line in output:
                print(f"[{self.name}] {line}", end="", flush=True)
                if line.strip():
                    self.last_line = line

    def wait(self) -> int:
        """Wait for the end; pytest's exit status."""
        self._printer.join()
        return self._process.wait()


def totals(last_lines: list[str]) -> dict[str, int]:
    """The tests of all lanes by outcome, from the last line of each."""
    found: dict[str, int] = {}
    for line in last_lines:
        for count, outcome in _COUNT.findall(line):
            found[outcome] = found.get(outcome, 0) + int(count)
    return found


def main(arguments: list[str]) -> int:
    """The command. Returns the first exit status that isn't 0."""
    if arguments:
        return subprocess.run([*_PYTEST, *arguments], check=False).returncode
    begun = time.monotonic()
    lanes = [Lane(name, list(folders)) for name, folders in LANES.items()]
    statuses = [lane.wait() for lane in lanes]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in totals([lane.last_line for lane in lanes]).items())
    print(f"both lanes: {counts} in {time.monotonic() - begun:.0f}s")
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
