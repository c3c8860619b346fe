"""The tailrace servers that run on this machine, with the plan that each was started with.

A server writes its state into a temporary folder, which only its user can enter, beside a socket that marks it. The
kernel lists open sockets, so the state of a dead server isn't found. Systems without /proc list none. Only diagnosis
needs the state, so a server serves without it: on a full disk, or when its folder was deleted.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import msgspec
import structlog

from tailrace.machine.plan import MachinePlan

_FILE = "state.json"
#: The name of the socket in the folder. Nothing connects to it.
SOCKET = "server.sock"


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

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{'https' if self.tls else 'http'}://{f'[{local}]' if ':' in local else local}:{self.port}"


def write_state(folder: Path, state: ServerState) -> None:
    """Write the state for ``find_servers``, atomically."""
    fresh = folder / f"{_FILE}.new"
    fresh.write_bytes(msgspec.json.encode(state))
    os.replace(fresh, folder / _FILE)


class StateFolder:
    """This server's folder. What fails is logged once and left out."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._socket: socket.socket | None = None
        self._warned = False

    def write(self, state: ServerState) -> None:
        """Write the state, into a new folder if there is none or it was deleted."""
        try:
            if self._folder is None or not (self._folder / SOCKET).exists():
                self._make()
            assert self._folder is not None
            write_state(self._folder, state)
        except OSError as error:
            if not self._warned:
                self._warned = True
                structlog.get_logger().warning(
                    "tailrace doctor won't see this server: its state can't be written", error=str(error)
                )

    def remove(self) -> None:
        """Delete the folder."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _make(self) -> None:
        self.remove()
        self._folder = Path(tempfile.mkdtemp(prefix="tailrace-"))  # Mode 0700.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._folder / SOCKET))


def find_servers(root: Path = Path("/"), user: int | None = None) -> list[ServerState]:
    """Running servers of ``user`` (None: of this process's user), sorted by port."""
    user = os.getuid() if user is None else user
    sockets = root / "proc/net/unix"
    if not sockets.is_file():
        return []
    # Columns: Num RefCount Protocol Flags Type St Inode Path. Connections repeat their socket's path.
    lines = (line.split(maxsplit=7) for line in sockets.read_text(encoding="utf-8", errors="replace").splitlines())
    folders = {Path(words[7]).parent for words in lines if len(words) == 8 and words[7].endswith(f"/{SOCKET}")}
    found = []
    for folder in folders:
        try:
            if folder.stat().st_uid != user:
                continue
            found.append(msgspec.json.decode((folder / _FILE).read_bytes(), type=ServerState))
        except OSError:
            continue  # Another program's folder, or a server that ends just now.
        except msgspec.DecodeError:
            continue  # Written by another version.
    return sorted(found, key=lambda state: state.port)
