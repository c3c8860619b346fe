"""The kernel's counts of a TCP connection: bytes in both directions, time of sending, round trip.

Source: ``struct tcp_info`` of Linux's include/uapi/linux/tcp.h; RFC 4898 for the names of the counters.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_DESCRIPTORS = Path("/proc/self/fd")
_TCP_INFO = 11
#: ``tcpi_rtt`` (µs), ``tcpi_total_retrans``, ``tcpi_bytes_acked``, ``tcpi_bytes_received``, ``tcpi_busy_time`` (µs).
_FIELDS = struct.Struct("=68xI28xI16xQQ32xQ")
#: The C library's, which takes a descriptor that isn't ours without closing it afterwards.
_getsockopt = ctypes.CDLL(None).getsockopt

Address = tuple[str, int]


class TcpReading(NamedTuple):
    """A connection's totals since its beginning."""

    sent: int  #: bytes that the other end has confirmed
    received: int  #: bytes
    sending_seconds: float  #: in which bytes were on their way there and not confirmed yet
    round_trip: float  #: seconds from bytes to their confirmation, the kernel's running mean
    retransmits: int  #: segments that were sent again


class Connection(NamedTuple):
    """A connection of this process. The descriptor is another part's: it may be closed at any time."""

    descriptor: int
    inode: int  #: tells whether the descriptor is still this connection
    here: Address
    there: Address


def read_tcp(connection: Connection) -> TcpReading | None:
    """Its totals; None where it is closed, or the system doesn't count."""
    try:
        if os.fstat(connection.descriptor).st_ino != connection.inode:
            return None
    except OSError:
        return None
    data = ctypes.create_string_buffer(_FIELDS.size)
    size = ctypes.c_uint32(_FIELDS.size)
    failed = _getsockopt(connection.descriptor, socket.IPPROTO_TCP, _TCP_INFO, data, ctypes.byref(size))
    if failed or size.value < _FIELDS.size or sys.platform != "linux":
        return None
    round_trip, retransmits, sent, received, sending = _FIELDS.unpack(data.raw)
    return TcpReading(sent, received, sending / 1e6, round_trip / 1e6, retransmits)


def find_connections() -> Iterator[Connection]:
    """The TCP connections over IPv4 that this process has; none on systems without /proc."""
    if not _DESCRIPTORS.is_dir():
        return
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208  # only the numbers
        # Another thread may close it at any time, so what is asked is a descriptor of our own.
        with contextlib.suppress(OSError):
            copy = os.dup(int(name))
            try:
                found = _connection(int(name), copy)
            finally:
                os.close(copy)
            if found is not None:
                yield found


def _connection(descriptor: int, copy: int) -> Connection | None:
    """Raises OSError for what isn't a connection."""
    status = os.fstat(copy)
    if not stat.S_ISSOCK(status.st_mode):
        return None
    with socket.socket(fileno=os.dup(copy)) as found:
        if found.family != socket.AF_INET or found.type != socket.SOCK_STREAM:
            return None
        return Connection(descriptor, status.st_ino, found.getsockname(), found.getpeername())
