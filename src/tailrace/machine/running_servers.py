"""The tailrace servers that run on this machine, with the plan that each was started with.

A server writes its state into the folder of its engine's socket, which only its user can enter. The kernel lists open
sockets, so the state of a dead server isn't found. Systems without /proc list none.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tailrace.machine.plan import MachinePlan

_FILE = "state.json"
#: The name of the socket in the folder.
SOCKET = "engine.sock"


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """One server as its supervisor knows it. Process ids are None for processes that aren't started yet."""

    plan: MachinePlan
    model: str
    port: int
    supervisor: int
    http: int | None
    engines: tuple[int | None, ...]  #: in the order of the plan's replicas
    pools: bool = True  #: whether the engines have thread pools; the scripted backend has none


def write_state(folder: Path, state: ServerState) -> None:
    """Write the state for ``find_servers``, atomically."""
    fresh = folder / f"{_FILE}.new"
    fresh.write_bytes(msgspec.json.encode(state))
    os.replace(fresh, folder / _FILE)


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
