"""Talks with a client's driver: a process in the client's own environment, which does what it is asked and tells what
it has seen.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from client_matrix import NODE, Client

#: Generous: importing some clients takes many seconds on a busy machine.
PATIENCE = 120.0
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(
    *turns: str,
    stream: bool = True,
    tools: Sequence[dict[str, Any]] = (),
    answers: dict[str, str] | None = None,
    leave_after: int | None = None,
) -> dict[str, Any]:
    """One conversation, as it is sent to drivers."""
    return {
        "turns": turns,
        "stream": stream,
        "tools": list(tools),
        "answers": answers or {},
        "leave_after": leave_after,
    }


class Driver:
    """A running driver."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-client-")
        self._log_path = Path(self._folder.name) / "log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                client.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=NODE,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def results(self, endpoint: dict[str, str], asks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run the conversations concurrently. Returns each one's result."""
        assert self._process.stdin is not None
        print(json.dumps({"endpoint": endpoint, "asks": asks}), file=self._process.stdin, flush=True)
        line = self._answers.get(timeout=PATIENCE)
        assert line, f"{self.client.name}'s driver has ended:\n{self.log}"
        results: list[dict[str, Any]] = json.loads(line)
        return results

    @property
    def log(self) -> str:
        """The standard error of the driver and its client."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._folder.cleanup()


@contextlib.contextmanager
def drivers() -> Iterator[dict[str, Driver]]:
    """Running drivers by their client's name, for the time of the block."""
    running: dict[str, Driver] = {}
    try:
        yield running
    finally:
        for driver in running.values():
            driver.close()
