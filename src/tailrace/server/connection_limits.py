"""The limits of connections, made of the settings and of what this process may open."""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.settings import Settings

#: Max connections where the setting leaves the number to the server. Each takes some 15 kB of memory.
_DEFAULT_CONNECTIONS = 4_096
#: Open files that are no connections: sockets of engines, logs, databases, downloads.
_OTHER_FILES = 64
#: Connections beyond the max that are still served where they ask for the server's health or metrics.
RESERVE = 16
#: Longer than the pools of common clients and proxies keep a connection idle, so that they close first.
_IDLE_SECONDS = 75.0
#: A refused body is read and dropped up to this multiple of the limit: closing the connection of a client that writes
#: would reset it before the client has read the answer.
_DROP_FACTOR = 8


@dataclass(frozen=True)
class ConnectionLimits:
    """See docs/settings.md for what has a setting."""

    connections: int  #: at a time
    share: int  #: of them, from one address
    header_seconds: float
    body_seconds: float
    send_seconds: float
    idle_seconds: float
    send_memory: int  #: bytes that wait for all clients together
    dropped_bytes: int  #: of a refused request's body


def connection_limits(settings: Settings, open_files: int) -> ConnectionLimits:
    """The limits of a process that may have ``open_files``."""
    possible = max(RESERVE, open_files - _OTHER_FILES - RESERVE)
    connections = min(settings.max_connections or _DEFAULT_CONNECTIONS, possible)
    return ConnectionLimits(
        connections=connections,
        share=max(1, connections - connections // 10),
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        send_seconds=settings.send_seconds,
        idle_seconds=_IDLE_SECONDS,
        send_memory=settings.send_memory_mb * 1_000_000,
        dropped_bytes=settings.max_body_mb * 1_000_000 * _DROP_FACTOR,
    )
