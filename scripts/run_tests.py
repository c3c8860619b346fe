"""Runs the tests in two lanes side by side: one process of pytest each.

    python scripts/run_tests.py [ARGUMENT ...]              all tests but those of ``make test-clients``
    python scripts/run_tests.py --clients [ARGUMENT ...]    the real clients, and the page in a browser

A lane waits for server processes most of the time, so two of them take two thirds of the time of one. The other lane
may take a test's processor for seconds, so the tests that failed run once more when both lanes have ended: what fails
alone has failed. With arguments there is one pytest, which gets them; for ``--clients`` they choose among the clients.
"""

from __future__ import annotations

import collections
import re
import signal
import subprocess
import sys
import threading
import time
from typing import IO

#: Folders and files of each lane: about the same time each.
LANES = {
    "processes": ("tests/process", "tests/native"),
    "wire": (
        "tests/contract",
        "tests/unit",
        "tests/clients",
        "tests/browser",
        "tests/devices",
        "tests/faults",
        "tests/cluster",
        "tests/wheel",
    ),
}
_CLIENTS = "tests/clients/test_{}.py".format
#: The browser's tests come last: Playwright's event loop goes on to the end of its process.
CLIENT_LANES = {
    "clients": tuple(map(_CLIENTS, ("clients", "frameworks", "open_webui", "rerankers"))),
    "agents": (*map(_CLIENTS, ("agents", "launch", "recipes")), "tests/browser"),
}
#: More failures than this aren't the other lane's doing: they don't run again.
MAX_AGAIN = 8
_PYTEST = (sys.executable, "-m", "pytest")
#: Lines of a lane that was stopped that are printed again at the end, below what the other lane printed.
TAIL_LINES = 60
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


class Lane:
    """A running pytest. Its lines are printed as they come, with the lane's name before them."""

    def __init__(self, name: str, places: list[str]) -> None:
        self.name = name
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            [*_PYTEST, *_own_cache(name), *places],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert self._process.stdout is not None
        self._printer = threading.Thread(target=self._print, args=(self._process.stdout,))
        self._printer.start()

    def _print(self, output: IO[str]) -> None:
        with output:
            for line in output:
                print(f"[{self.name}] {line}", end="", flush=True)
                if line.strip():
                    self.tail.append(line)

    @property
    def last_line(self) -> str:
        """The last line that has text."""
        return self.tail[-1] if self.tail else ""

    def wait(self) -> int:
        """Wait for the end; pytest's exit status."""
        self._printer.join()
        return self._process.wait()


def _own_cache(lane: str) -> tuple[str, str]:
    """The arguments that keep a lane's list of failures apart from the other's."""
    return "-o", f"cache_dir=.pytest_cache/{lane}"


def again(lane: Lane, places: tuple[str, ...]) -> int:
    """Run the tests of a lane that failed once more, alone; pytest's exit status."""
    print(f"[{lane.name}] what failed beside the other lane runs again, alone", flush=True)
    repeated = Lane(lane.name, ["--last-failed", "--last-failed-no-failures", "none", *places])
    return repeated.wait()


def tell_of_stopped(lane: Lane, status: int) -> None:
    """Print the end of a lane that a signal stopped: it has no summary, and its last lines stand far above."""
    print(f"[{lane.name}] was stopped by {signal.Signals(-status).name}; its last lines:", flush=True)
    print("".join(f"[{lane.name}] {line}" for line in lane.tail), end="", flush=True)


def totals(last_lines: list[str]) -> dict[str, int]:
    """The tests of all lanes by outcome, from the last line of each."""
    found: dict[str, int] = {}
    for line in last_lines:
        for count, outcome in _COUNT.findall(line):
            outcome = outcome.replace("errors", "error")
            found[outcome] = found.get(outcome, 0) + int(count)
    return found


def main(arguments: list[str]) -> int:
    """The command. Returns the first exit status that isn't 0."""
    clients, arguments = arguments[:1] == ["--clients"], [each for each in arguments if each != "--clients"]
    places = CLIENT_LANES if clients else LANES
    if arguments:
        chosen = ["tests/clients", *arguments] if clients else arguments
        return subprocess.run([*_PYTEST, *chosen], check=False).returncode
    begun = time.monotonic()
    lanes = [Lane(name, list(its)) for name, its in places.items()]
    statuses = [lane.wait() for lane in lanes]
    found = totals([lane.last_line for lane in lanes])
    counts = ", ".join(f"{count} {outcome}" for outcome, count in found.items())
    print(f"both lanes: {counts} in {time.monotonic() - begun:.0f}s", flush=True)
    if 0 < found.get("failed", 0) <= MAX_AGAIN and not found.get("error"):
        statuses = [
            again(lane, places[lane.name]) if status == 1 else status
            for lane, status in zip(lanes, statuses, strict=True)
        ]
    for lane, status in zip(lanes, statuses, strict=True):
        if status < 0:
            tell_of_stopped(lane, status)
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
