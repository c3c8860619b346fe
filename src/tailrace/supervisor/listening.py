"""The server's listening TCP socket. The supervisor owns it, so no child's death closes the port."""

from __future__ import annotations

import socket

from tailrace.errors import ConfigurationError


def listen(host: str, port: int) -> socket.socket:
    """Listen on the address. Raises ConfigurationError when it can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port}: {error.strerror or error}. "
            "Is another server running there? --port 0 picks a free port."
        ) from error
    return sock
