"""Fetching models of the catalogue for clients: one fetch a model, however many clients ask, each on its own thread.

A client that goes away doesn't end a fetch; one that asks again is told how far it is. Names outside of the catalogue
are refused, and what is fetched has to have the catalogue's SHA-256, so a client can't choose what comes in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import structlog

from tailrace.errors import FetchFailed, ModelError, RequestError
from tailrace.models.catalogue import CATALOGUE, CatalogueModel
from tailrace.models.fetch import Stage, fetch
from tailrace.models.store import Store
from tailrace.server.dialects.ollama import names

#: How long the process's end waits for fetches to clean up behind them.
_STOP_SECONDS = 2.0

Status = dict[str, Any]  #: one line of the stream


class _Stopped(Exception):
    """The process ends."""


class Fetches:
    """The fetches that run."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: dict[str, _Fetch] = {}

    def entry(self, name: str) -> CatalogueModel:
        """The catalogue's entry. Raises ModelNotFound, naming those that there are."""
        entry = CATALOGUE.get(names.stored(name))
        if entry is None:
            known = ", ".join(f"'{known}'" for known in CATALOGUE)
            raise names.not_found(name, f"the catalogue has {known}; put other GGUF files into the store by hand")
        return entry

    def present(self, entry: CatalogueModel) -> bool:
        """Whether the model is in the store already. Reads the disk."""
        stored = self._store.find(entry.name)
        return stored is not None and (stored.path.name, stored.bytes) == (entry.file, entry.bytes)

    def follow(self, entry: CatalogueModel, keepalive_seconds: float) -> AsyncIterator[Status]:
        """Join the model's fetch, or begin it: what it says until it is done, and its last word again in long silences.

        Raises FetchFailed.
        """
        running = self._running.get(entry.name)
        if running is None or running.ended:
            running = self._running[entry.name] = _Fetch(entry, self._store)
            running.start()
        return running.follow(keepalive_seconds)

    def stop(self) -> None:
        """End every fetch; nothing of an unfinished one stays."""
        for running in self._running.values():
            running.stop()


class _Fetch:
    """One fetch. Its thread reports to the event loop, where everything else of it happens."""

    def __init__(self, entry: CatalogueModel, store: Store) -> None:
        self._entry = entry
        self._store = store
        self._loop = asyncio.get_running_loop()
        # A daemon, so that a download that hangs doesn't keep the process from ending.
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
        self._thread.join(_STOP_SECONDS)

    async def follow(self, keepalive_seconds: float) -> AsyncIterator[Status]:
        """See ``Fetches``. A slow client misses what was said in between."""
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
            fetch(self._entry, self._store, self._progress)
        except _Stopped:
            return
        except ModelError as failed:
            structlog.get_logger().error("a model can't be fetched", model=self._entry.name, error=str(failed))
            error = FetchFailed(f"'{self._entry.name}' couldn't be fetched; the server's log says why.")
        except Exception:
            structlog.get_logger().exception("fetching hit a defect", model=self._entry.name)
            error = FetchFailed(f"Fetching '{self._entry.name}' hit a defect; the server's log has the details.")
        self._tell({"status": "success"}, error=error, ended=True)

    def _progress(self, stage: Stage, done: int, total: int) -> None:
        if self._stopping.is_set():
            raise _Stopped
        digest = f"sha256:{self._entry.sha256}"
        if stage == "verify":
            self._tell({"status": "verifying sha256 digest", "digest": digest, "total": total, "completed": done})
            return
        # What the download says of its size is the package's, which the model is packed in.
        status = f"pulling {self._entry.sha256[:12]}"
        self._tell({"status": status, "digest": digest, "total": total or self._entry.bytes, "completed": done})

    def _tell(self, status: Status, *, error: RequestError | None = None, ended: bool = False) -> None:
        try:
            self._loop.call_soon_threadsafe(self._told, status, error, ended)
        except RuntimeError:
            pass  # The loop is closed: the process ends.

    # On the event loop

    def _told(self, status: Status, error: RequestError | None, ended: bool) -> None:
        self._status, self._error, self.ended = status, error, ended
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
