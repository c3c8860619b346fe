"""Ends a TCP connection with a reset: what waits for the client is dropped, in this process and in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

#: SO_LINGER with zero seconds.
_NO_LINGER = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """End the transport's connection at once."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # The connection has ended already.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
