"""The record of the tailrace servers that run on this machine, in the user's state folder.

Each server has two files in ``servers``: ``NAME.json``, its state, and ``NAME.lock``, which it keeps locked (flock(2))
while it lives. The kernel unlocks a file when its process ends, by whatever cause. So a file without a lock is left
over: of a killed server, or from before a restart of the machine. Readers delete such files. A server serves without
its record: on a full disk, or in a folder that is read-only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from tailrace.folders import state_folder
from tailrace.machine.plan import MachinePlan
from tailrace.machine.process_start import start_ticks

_LOCK = ".lock"
_STATE = ".json"


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose engines are there, or are being started."""

    name: str
    plan: MachinePlan
    engines: tuple[int | None, ...]  #: process ids, in the order of the plan's replicas; None: not started yet
    pools: bool = True  #: whether the engines have thread pools; the scripted backend has none


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """One server as its supervisor knows it."""

    models: tuple[str, ...]  #: names of all that it serves
    loaded: tuple[LoadedModel, ...]
    port: int
    supervisor: int  #: its process id
    http: int | None  #: None: it isn't started yet
    http_cpus: tuple[int, ...] = ()  #: planned for the HTTP process; empty: any
    host: str = "127.0.0.1"  #: the address that it listens on
    tls: bool = False  #: whether it speaks TLS
    ready: bool = True  #: whether it has been ready once; False: its model loads
    started: float = 0.0  #: Unix time
    start_ticks: int | None = None  #: the supervisor's (``process_start``), by which a reused process id is known
    log: str | None = None  #: the log file of a server in the background

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{local}]' if ':' in local else local}:{self.port}"

    @property
    def processes(self) -> tuple[int, ...]:
        """The ids of all its processes."""
        engines = [pid for model in self.loaded for pid in model.engines]
        return tuple(pid for pid in (self.supervisor, self.http, *engines) if pid is not None)


def servers_folder() -> Path:
    """Where servers record themselves."""
    return state_folder() / "servers"


class ServerRecord:
    """This server's own record. What fails is logged once and left out."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or servers_folder()
        self._name = ""
        self._fd = -1
        self._warned = False

    def write(self, state: ServerState) -> None:
        """Write the state, into new files if there are none or they were deleted."""
        try:
            if self._fd < 0 or not self._path(_LOCK).exists():
                self._make()
            _replace(self._path(_STATE), msgspec.json.encode(state))
        except OSError as error:
            if not self._warned:
                self._warned = True
                structlog.get_logger().warning(
                    "tailrace ps and doctor won't see this server: its state can't be written", error=str(error)
                )

    def remove(self) -> None:
        """Delete the files."""
        if self._fd < 0:
            return
        for ending in (_STATE, _LOCK):
            with contextlib.suppress(OSError):
                self._path(ending).unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _make(self) -> None:
        self.remove()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
            fd = os.open(self._path(_LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fd = fd
                return
            os.close(fd)  # A reader found it before it was locked, and has deleted it.

    def _path(self, ending: str) -> Path:
        return self._folder / f"{self._name}{ending}"


def find_servers(folder: Path | None = None) -> list[ServerState]:
    """Running servers of this process's user, sorted by port. Deletes what dead servers have left."""
    found = []
    for lock in (folder or servers_folder()).glob(f"*{_LOCK}"):
        with contextlib.suppress(OSError), _opened(lock) as fd:
            if os.fstat(fd).st_uid != os.getuid():
                continue
            state = lock.with_suffix(_STATE)
            if _is_unlocked(fd):
                for path in (_fresh(state), state, lock):
                    path.unlink(missing_ok=True)
            elif (read := _read(state)) is not None:
                found.append(read)
    return sorted(found, key=lambda state: state.port)


def is_running(server: ServerState) -> bool:
    """Whether the process that has recorded ``server`` still runs."""
    try:
        os.kill(server.supervisor, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # Another user's process has got its id.
    return start_ticks(server.supervisor) == server.start_ticks


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_unlocked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> ServerState | None:
    try:
        state = msgspec.json.decode(path.read_bytes(), type=ServerState)
    except msgspec.DecodeError:
        return None  # Written by another version.
    # A server of another container that shares this folder has a process id that means nothing here.
    return state if is_running(state) else None


def _replace(path: Path, data: bytes) -> None:
    """Write the file whole, for its owner alone."""
    fresh = _fresh(path)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(fresh, path)


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
