"""Pulls for clients: one pull a model, for any number of clients. Each has a thread, and a process that it waits for.

A pull goes on as long as a client follows it, as in Ollama. When the last one disconnects, it is stopped; the next
request for the model goes on where it ended.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

import structlog

from tailrace.errors import FetchFailed, ModelError, PullFailed, TooManyRequests
from tailrace.machine.free_memory import read_memory
from tailrace.models.fetch import FetchStopped
from tailrace.models.pulls.progress import OnProgress, Progress, Pulled
from tailrace.models.pulls.pull import pull
from tailrace.models.reference import Reference
from tailrace.serving.model_spec import ModelSpec

#: Pulls at a time. Each is a process with 40 MB, and they share one network and one disk.
MAX_PULLS = 4
#: How long the process's end waits for all pulls to end.
_STOP_SECONDS = 2.0
#: Seconds after which a client that was refused may ask again.
_RETRY_SECONDS = 60
#: Reasons of failures whose messages clients get. The others may describe this machine and its network.
_TOLD = frozenset({"denied", "missing", "refused", "busy", "untrusted", "damaged"})
#: Digits of a digest in a status, as in Ollama.
_SHOWN_DIGITS = 12

Status = dict[str, Any]  #: one line of the stream

#: Pulls a model, as ``models.pulls.pull`` does.
Pull = Callable[[Reference, OnProgress, threading.Event], Pulled]


def _pull(reference: Reference, on_progress: OnProgress, stopping: threading.Event) -> Pulled:
    return pull(reference, on_progress, stopping, memory=read_memory().total)


class Serving(Protocol):
    """What is done with a model that is there, before clients hear of it."""

    def find(self, reference: Reference) -> ModelSpec | None:
        """The model as it is to be served, if it is. Called on a pull's thread."""
        ...

    def serve(self, spec: ModelSpec) -> None:
        """Serve it. Called on the event loop."""
        ...


class Pulls:
    """The pulls that run."""

    def __init__(self, serving: Serving, pull: Pull = _pull) -> None:
        self._serving = serving
        self._pull = pull
        self._running: dict[str, _Pull] = {}

    def follow(self, reference: Reference, keepalive_seconds: float) -> AsyncIterator[Status]:
        """Join or begin the model's pull. Yields its statuses until the end, and repeats the last one after a long
        silence. Raises TooManyRequests, and FetchFailed in the iterator.
        """
        self._check_count(str(reference))
        return self._follow(reference, keepalive_seconds)

    def stop(self) -> None:
        """Stop every pull. What was downloaded stays."""
        pulls = list(self._running.values())
        for running in pulls:
            running.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for running in pulls:
            running.wait(max(0.0, deadline - time.monotonic()))

    def _check_count(self, key: str) -> None:
        if key not in self._running and len(self._running) >= MAX_PULLS:
            raise TooManyRequests(
                f"{MAX_PULLS} models are being pulled already; pull again when one is there.",
                retry_after=_RETRY_SECONDS,
                code="too_many_pulls",
            )

    async def _follow(self, reference: Reference, keepalive_seconds: float) -> AsyncIterator[Status]:
        # Begun here and not in ``follow``: an iterator that is never iterated has no end at which it could stop.
        key = str(reference)
        self._check_count(key)
        running = self._running.get(key)
        if running is None:
            running = _Pull(reference, self._pull, self._serving, partial(self._forget, key))
            self._running[key] = running
            running.start()
        running.followers += 1
        try:
            async for status in running.statuses(keepalive_seconds):
                yield status
        finally:
            running.followers -= 1
            if running.followers == 0:
                running.stop()
                self._forget(key, running)

    def _forget(self, key: str, ended: _Pull) -> None:
        # Another one of the model may have begun since.
        if self._running.get(key) is ended:
            del self._running[key]


class _Pull:
    """One pull. Its thread reports to the event loop, where everything else of it happens."""

    def __init__(self, reference: Reference, pull: Pull, serving: Serving, on_end: Callable[[_Pull], None]) -> None:
        self.followers = 0
        self._reference = reference
        self._pull = pull
        self._serving = serving
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        # A daemon thread, so a hanging pull doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="pull", daemon=True)
        self._stopping = threading.Event()
        #: Of statuses in a row with the same words only the last one: a few for each file.
        self._statuses: list[Status] = [{"status": "pulling manifest"}]
        self._changed = asyncio.Event()
        self._error: str | None = None
        self._ended = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    async def statuses(self, keepalive_seconds: float) -> AsyncIterator[Status]:
        """All statuses from the beginning on. A slow client misses progress, and no other status."""
        at, shown = 0, None
        while True:
            changed, ended, pending = self._changed, self._ended, self._statuses[at:]
            for status in pending:
                if status is not shown:
                    shown = status
                    yield status
            at += len(pending) - 1
            if ended:
                break
            try:
                await asyncio.wait_for(changed.wait(), keepalive_seconds)
            except TimeoutError:
                if shown is not None:
                    yield shown  # The same again: a sign of life.
        if self._error is not None:
            raise FetchFailed(self._error)

    # On its thread

    def _run(self) -> None:
        name = str(self._reference)
        error: str | None = None
        spec: ModelSpec | None = None
        try:
            self._pull(self._reference, self._progress, self._stopping)
            spec = self._serving.find(self._reference)
        except FetchStopped:
            error = "The pull was stopped."
        except PullFailed as failed:
            structlog.get_logger().error("a model can't be pulled", model=name, error=str(failed))
            told = failed.reason in _TOLD
            error = (
                str(failed) if told else f"'{name}' couldn't be pulled ({failed.reason}); the server's log says why."
            )
        except ModelError as failed:
            structlog.get_logger().error("a model can't be pulled", model=name, error=str(failed))
            error = f"'{name}' couldn't be fetched; the server's log says why."
        except Exception:
            structlog.get_logger().exception("a pull hit a defect", model=name)
            error = f"Pulling '{name}' hit a defect; the server's log has the details."
        self._publish(partial(self._finish, spec, error))

    def _progress(self, progress: Progress) -> None:
        for status in _statuses(progress):
            self._publish(partial(self._add, status))

    def _publish(self, change: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(change)
        except RuntimeError:
            pass  # The loop is closed: the process ends.

    # On the event loop

    def _add(self, status: Status) -> None:
        if self._statuses[-1]["status"] == status["status"]:
            self._statuses[-1] = status
        else:
            self._statuses.append(status)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _finish(self, spec: ModelSpec | None, error: str | None) -> None:
        if spec is not None:
            self._serving.serve(spec)
        self._error, self._ended = error, True
        self._on_end(self)
        if error is None:
            self._add({"status": "success"})
        else:
            self._changed.set()


def _statuses(progress: Progress) -> list[Status]:
    """A report in Ollama's words (its server/images.go and server/download.go)."""
    figures = {"digest": progress.digest, "total": progress.total, "completed": progress.done}
    if progress.stage == "write":
        return [{"status": "verifying sha256 digest"}, {"status": "writing manifest"}]
    if not progress.digest:
        return []
    if progress.stage == "verify":
        return [{"status": "verifying sha256 digest", **figures}]
    digits = progress.digest.partition(":")[2][:_SHOWN_DIGITS]
    return [{"status": f"pulling {digits}", **figures}]


async def present() -> AsyncIterator[Status]:
    """The statuses of a pull of what is there."""
    yield {"status": "pulling manifest"}
    yield {"status": "success"}
