"""Asks a worker's RPC port for its greeting. llama.cpp waits there without a limit, and ends the process where it can't
connect, so this is asked before.

Source of the protocol: ``negotiate_hello`` in llama.cpp's ``ggml-rpc.cpp``.
"""

from __future__ import annotations

import socket
import struct

from tailrace.engine.devices.worker_errors import WorkerUnavailableError

#: Seconds for the connection, and for the reply.
_SECONDS = 3.0
#: The command HELLO, the size of its arguments, and these: no transport but TCP.
_HELLO = struct.pack("<BQ24x", 14, 24)
#: The size of the reply, which the worker writes first: version and its transports.
_REPLY = struct.pack("<Q", 28)


def check_rpc_port(address: str, port: int) -> None:
    """Raise WorkerUnavailableError unless llama.cpp's RPC server answers at the port now."""
    where = f"the worker at {address}:{port} reports, but its port {port}"
    try:
        with socket.create_connection((address, port), timeout=_SECONDS) as connection:
            connection.sendall(_HELLO)
            received = b""
            while len(received) < len(_REPLY):
                piece = connection.recv(len(_REPLY) - len(received))
                if not piece:
                    break
                received += piece
    except TimeoutError:
        raise WorkerUnavailableError(
            f"{where} doesn't answer: another engine has connected meanwhile, or a tunnel brings one of its two ports"
        ) from None
    except OSError as error:
        raise WorkerUnavailableError(
            f"{where} can't be reached ({error.strerror or error}): a tunnel has to bring both"
        ) from error
    if received != _REPLY:
        raise WorkerUnavailableError(f"{where} isn't llama.cpp's RPC server: a tunnel has to bring both of its ports")
