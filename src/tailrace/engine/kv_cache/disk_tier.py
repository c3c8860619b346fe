"""The prefix cache's disk tier: states in files that one thread writes and reads, found by their tokens.

It doesn't decide which sequence runs. The loop calls ``find``, has a file read with ``fetch``, and gets its content
through the inbox; no step waits for a disk. ``save`` writes what the process would lose at its end. ``state_file`` has
the format, ``state_folder`` the folder, ``state_index`` the accounting.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from tailrace.engine.backends.base import KVState
from tailrace.engine.helper_thread import HelperThread
from tailrace.engine.kv_cache.rollback import ANY_LENGTH, Rollback
from tailrace.engine.kv_cache.state_file import Carried, StateDamaged, file_size, read_state
from tailrace.engine.kv_cache.state_folder import StateFolder
from tailrace.engine.kv_cache.state_index import MIN_PREFIX, StateIndex, name_of, pack, unpack

#: States that may wait to be written. More are dropped: they would take memory and the disk can't keep up.
_MAX_QUEUED = 8
#: Bytes of a packed token.
_TOKEN_BYTES = 4
#: Seconds between the times of two files that are saved together: the order of their use.
_TIME_STEP = 0.01


class Fetched(msgspec.Struct, frozen=True):
    """A file has been read for the sequence ``id``; ``state`` is None where it couldn't be."""

    id: int
    tokens: list[int]
    state: KVState | None
    carried: Carried = ()


class DiskOptions(msgspec.Struct, frozen=True):
    """The folder for states, and how many bytes they may take. ``rollback``: how the end of a state can be removed."""

    folder: Path
    max_bytes: int
    rollback: Rollback = ANY_LENGTH


class Savable(NamedTuple):
    """A state that lives in this process. ``size``: its bytes, approximately. ``read``: None where it can't be had.
    ``carried``: the checkpoints that go with it.
    """

    tokens: list[int]
    size: int
    read: Callable[[], KVState | None]
    carried: Carried = ()


class DiskTier:
    """States in a folder, of at most ``max_bytes`` in all, least recently used out first."""

    def __init__(self, options: DiskOptions, deliver: Callable[[Fetched], None]) -> None:
        """The folder must be of this very model: a state of another one would be used as this model's. Files of earlier
        runs are found again. ``deliver`` is called from the tier's thread.
        """
        self.deliver = deliver
        self.read_speed = 0.0  #: tokens a second of the files that were read; 0: none was
        self._folder = StateFolder(options.folder)
        self._options = options
        self._log = structlog.get_logger()
        self._index = StateIndex(options.rollback)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._find_files()
        self._evict()
        self._jobs.put(self._folder.delete_expired)
        self._thread = HelperThread(self._work, name="kv-disk")
        self._thread.start()

    @property
    def index(self) -> StateIndex:
        """The files, to be looked at in the loop's thread."""
        return self._index

    @property
    def free_bytes(self) -> int:
        """Bytes that fit before a file is deleted."""
        return max(0, self._options.max_bytes - self._index.used_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes that the files take."""
        return self._index.used_bytes

    def find(self, tokens: list[int], known: int = 0) -> str | None:
        """The file to read for a sequence of which ``known`` tokens are in memory; None where none is worth it."""
        return self._index.find(tokens, known)

    def write(self, tokens: list[int], state: KVState, carried: Carried = ()) -> None:
        """Queue the state to be written, unless it is too short to be looked for, too large, or the disk is behind."""
        if len(tokens) < MIN_PREFIX or self._jobs.qsize() >= _MAX_QUEUED:
            return
        packed = pack(tokens)
        size = file_size(packed, state, carried)
        if size > self._options.max_bytes:
            return
        if (covering := self._index.covers(packed)) is not None:
            self._index.touch(covering)
            return
        earlier = self._index.superseded(packed)
        name = name_of(packed)
        self._index.add(name, packed, size, tuple(length for length, _ in carried))
        self._jobs.put(partial(self._write, name, packed, state, carried))
        for each in earlier:
            self._drop(each)
        self._evict()

    def fetch(self, name: str, identity: int) -> None:
        """Have the file read. A ``Fetched`` for ``identity`` is delivered, whatever happens."""
        self._index.touch(name)
        self._jobs.put(partial(self._fetch, name, identity, self._index.tokens(name)))

    def forget(self, tokens: list[int]) -> None:
        """The file of this state couldn't be read: it isn't looked for again."""
        self._index.remove(name_of(pack(tokens)))

    def save(self, states: Iterable[Savable], deadline: float) -> tuple[int, int]:
        """Write the states of a process that ends, most recently used first; how many, and their bytes.

        It ends at ``deadline`` (monotonic) or where the disk is full. The tier has to be closed.
        """
        self._find_files()
        saved: list[str] = []
        count = total = 0
        for each in states:
            if time.monotonic() >= deadline:
                break
            if len(each.tokens) < MIN_PREFIX or total + each.size > self._options.max_bytes:
                continue
            packed = pack(each.tokens)
            try:
                if any(self._index.tokens(name).startswith(packed) for name in saved):
                    continue  # An earlier turn of a conversation.
                if (covering := self._index.covers(packed)) is not None:
                    self._folder.touch(covering, len(saved) * _TIME_STEP)
                    self._index.touch(covering)
                    saved.append(covering)
                    continue
                state = each.read()
                if state is None or total + file_size(packed, state, each.carried) > self._options.max_bytes:
                    continue
                size = file_size(packed, state, each.carried)
                self._make_space(size, saved)
                name = name_of(packed)
                self._folder.write(name, packed, state, deadline, each.carried)
                self._folder.touch(name, len(saved) * _TIME_STEP)
            except OSError as error:
                self._log.warning("prefix states can't be saved", saved=count, error=str(error))
                break
            self._index.add(name, packed, size, tuple(length for length, _ in each.carried))
            saved.append(name)
            count, total = count + 1, total + size
            for earlier in self._index.superseded(packed):
                self._delete(earlier)
        return count, total

    def close(self, seconds: float | None = None) -> bool:
        """Finish the queued work and end the thread. False where that takes more than ``seconds``."""
        self._jobs.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # In the loop's thread

    def _find_files(self) -> None:
        """Bring the index up to date with the folder, in which other engines write, too."""
        self._index = StateIndex(self._options.rollback)
        for stored in self._folder.scan():
            self._index.add(stored.name, stored.packed, stored.size, stored.checkpoints)

    def _evict(self) -> None:
        for name in self._index.victims(self._options.max_bytes):
            self._drop(name)

    def _drop(self, name: str) -> None:
        """Forget a file, and have it deleted after what is queued."""
        self._index.remove(name)
        self._jobs.put(partial(self._folder.delete, self._folder.path(name)))

    def _make_space(self, size: int, saved: list[str]) -> None:
        """Delete files that aren't of this save until there is space for one more of this size."""
        for name in self._index.victims(self._options.max_bytes - size):
            if name not in saved:
                self._delete(name)

    def _delete(self, name: str) -> None:
        self._index.remove(name)
        self._folder.delete(self._folder.path(name))

    # In the tier's own thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                # A failure of one file must not keep other sequences waiting for their files.
                self._log.exception("work on a prefix file has failed")

    def _fetch(self, name: str, identity: int, packed: bytes) -> None:
        state: KVState | None = None
        carried: Carried = ()
        begun = time.monotonic()
        try:
            state, carried = self._read(name)
            if state is not None:
                speed = len(packed) // _TOKEN_BYTES / max(1e-6, time.monotonic() - begun)
                self.read_speed = speed if not self.read_speed else (self.read_speed + speed) / 2
        finally:
            self.deliver(Fetched(identity, unpack(packed), state, carried))

    def _write(self, name: str, packed: bytes, state: KVState, carried: Carried) -> None:
        try:
            self._folder.write(name, packed, state, carried=carried)
        except OSError as error:
            # The state is a shortcut only: a sequence that looks for it computes its prompt.
            self._log.warning("a KV state can't be written", error=str(error))
        # Other engines of this model have files there, too.
        self._folder.trim(self._options.max_bytes)

    def _read(self, name: str) -> tuple[KVState | None, Carried]:
        path = self._folder.path(name)
        try:
            self._folder.touch(name)  # The next run takes the order of use from these times.
            return read_state(path)
        except FileNotFoundError:
            return None, ()  # Another engine has deleted it.
        except OSError as error:
            self._log.warning("a KV state can't be read", file=str(path), error=str(error))
        except StateDamaged:
            self._log.warning("a KV state's file is damaged", file=str(path))
            self._folder.delete(path)
        return None, ()
