"""Where a worker may listen. llama.cpp's RPC protocol neither asks who connects nor encrypts, so it is for one machine
or for a network that others can't reach.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from tailrace.errors import ConfigurationError
from tailrace.worker_protocol.networks import is_private
from tailrace.worker_protocol.status import DEFAULT_PORT, MAX_PORT, STATUS_PORT_OFFSET, parse_port

#: Pairs of ports that are tried where the user leaves the choice.
_TRIES = 64


class ListenAddress(NamedTuple):
    """An address of this machine, and a port there; the next port is the status port."""

    host: str  #: an IPv4 address
    port: int
    is_loopback: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_listen(text: str, *, allow_private: bool) -> ListenAddress:
    """The address ``HOST``, ``HOST:PORT`` or ``:PORT``. Port 0 stands for any two free ones.

    Raises ConfigurationError for an address that a worker may not listen on.
    """
    host, separator, port_text = text.partition(":")
    port = DEFAULT_PORT
    if separator:
        found = parse_port(port_text)
        if found is None:
            raise ConfigurationError(
                f"--listen is {text}: write it like 127.0.0.1:{DEFAULT_PORT}, with an IPv4 address (llama.cpp's RPC "
                f"has no IPv6) and a port up to {MAX_PORT}"
            )
        port = found
    address = _address(host or "127.0.0.1", text)
    if address.is_loopback:
        return ListenAddress(str(address), port, is_loopback=True)
    if not is_private(address):
        raise ConfigurationError(
            f"--listen is {text}, which isn't an address of a private network. A worker obeys every client that "
            "reaches it, without a key and without encryption. Listen on 127.0.0.1, and connect through an ssh or "
            "WireGuard tunnel"
        )
    if not allow_private:
        raise ConfigurationError(
            f"--listen is {text}: every machine of that network could use this worker, and read what is computed on "
            "it. Listen on 127.0.0.1 and connect through an ssh tunnel; or, where all machines there may do so, add "
            "--allow-private"
        )
    return ListenAddress(str(address), port, is_loopback=False)


def _address(host: str, text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigurationError(
            f"--listen is {text}: write this machine's IPv4 address, such as 127.0.0.1:{DEFAULT_PORT}"
        ) from None


def free_address(address: ListenAddress) -> ListenAddress:
    """The address with a port that is free, and its status port with it. Raises ConfigurationError without one.

    llama.cpp opens the port itself, later. Where another process takes it in between, that fails.
    """
    if address.port:
        _try_ports(address.host, address.port)
        return address
    for _ in range(_TRIES):
        with socket.socket() as chosen:
            chosen.bind((address.host, 0))
            port = int(chosen.getsockname()[1])
        try:
            _try_ports(address.host, port)
        except ConfigurationError:
            continue
        return address._replace(port=port)
    raise ConfigurationError(f"{address.host} has no two free ports beside each other: name one with --listen")


def _try_ports(host: str, port: int) -> None:
    for each in (port, port + STATUS_PORT_OFFSET):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, each))
            except OSError as error:
                raise ConfigurationError(
                    f"the worker can't listen on {host}:{each} (a worker takes its port and the next one): "
                    f"{error.strerror}. Choose another with --listen"
                ) from error
