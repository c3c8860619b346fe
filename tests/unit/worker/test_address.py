"""Where a worker may listen."""

from __future__ import annotations

import socket

import pytest

from tailrace.errors import ConfigurationError
from tailrace.worker.address import ListenAddress, free_address, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", 50_052),
        ("localhost:4000", "127.0.0.1", 4000),
        (":4000", "127.0.0.1", 4000),
        ("127.3.2.1:1", "127.3.2.1", 1),
    ],
)
def test_loopback_needs_no_flag(text: str, host: str, port: int) -> None:
    assert parse_listen(text, allow_private=False) == ListenAddress(host, port, is_loopback=True)


@pytest.mark.parametrize("text", ["10.0.0.2", "172.31.0.1:9", "192.168.1.4:9000", "100.64.0.7", "169.254.1.1"])
def test_a_private_network_needs_a_flag(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--allow-private"):
        parse_listen(text, allow_private=False)
    assert not parse_listen(text, allow_private=True).is_loopback


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "8.8.8.8:50052", "172.32.0.1", "100.128.0.1", "255.255.255.255", "224.0.0.1"]
)
def test_other_networks_are_refused_with_the_flag(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"private network[^$]*tunnel"):
        parse_listen(text, allow_private=True)


@pytest.mark.parametrize(
    "text",
    [
        "::1",
        "example.org",
        "127.0.0.1:",
        "127.0.0.1:x",
        "127.0.0.1:65535",
        "127.0.0.1:-1",
        "127.0.0.1:²",
        "[::1]:50052",
        "::",
        f"127.0.0.1:{'9' * 5000}",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--listen is"):
        parse_listen(text, allow_private=True)


def test_a_free_port_has_a_free_neighbour() -> None:
    found = free_address(parse_listen("127.0.0.1:0", allow_private=False))
    for port in (found.port, found.port + 1):
        with socket.create_server((found.host, port)):
            pass


def test_a_taken_status_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1:{port}"):
            free_address(ListenAddress("127.0.0.1", port - 1, is_loopback=True))
