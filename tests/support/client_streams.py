"""Clients that stream chat completions, each in a thread, and what each of them saw and when."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from servers import wait_for


@dataclass
class Seen:
    """What one client saw. Times are those of ``time.monotonic``; None: not yet."""

    status: int | None = None
    text: str = ""
    first_at: float | None = None  #: of the first text
    ended_at: float | None = None
    finish: str | None = None  #: why the reply ended
    error: str | None = None  #: of an error's answer or event, or of the connection
    starts: int = 0  #: chunks with a role: replies that began
    models: set[str] = field(default_factory=set)


class ClientStream:
    """One streamed chat completion. ``say``: the reply of the scripted backend."""

    def __init__(self, port: int, model: str, say: str) -> None:
        self.seen = Seen()
        self._port = port
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": f"<say>{say}</say>"}],
            "stream": True,
        }
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def has_begun(self) -> bool:
        """Whether text has come."""
        return self.seen.first_at is not None

    @property
    def has_ended(self) -> bool:
        """Whether the reply or its connection has ended."""
        return self.seen.ended_at is not None

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(self._body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            self.seen.status = response.status
            if response.status != 200:
                self.seen.error = response.read().decode()
                return
            for line in response:
                if line.startswith(b"data: {"):
                    self._take(json.loads(line[6:]))
            if self.seen.finish is None and self.seen.error is None:
                self.seen.error = "the stream ended before the reply"
        except (OSError, http.client.HTTPException) as error:
            self.seen.error = repr(error)
        finally:
            connection.close()
            self.seen.ended_at = time.monotonic()

    def _take(self, event: dict[str, object]) -> None:
        if "error" in event:
            self.seen.error = json.dumps(event["error"])
            return
        for choice in event.get("choices", ()):  # type: ignore[attr-defined]
            delta = choice["delta"]
            self.seen.starts += "role" in delta
            if text := delta.get("content"):
                self.seen.first_at = self.seen.first_at or time.monotonic()
                self.seen.text += text
            self.seen.finish = choice["finish_reason"] or self.seen.finish


def wait_ended(streams: list[ClientStream]) -> None:
    """Wait until all have ended."""
    wait_for("all streams' ends", lambda: all(each.has_ended for each in streams))


class SteadyLoad:
    """Clients that send one request after the other, until ``stop``."""

    def __init__(self, make: Callable[[], ClientStream], clients: int) -> None:
        self.done: list[Seen] = []
        self._make = make
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Seen]:
        """End after the requests that run; what all clients saw."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.done

    def _run(self) -> None:
        while not self._stop.is_set():
            stream = self._make()
            stream._thread.join()
            self.done.append(stream.seen)
