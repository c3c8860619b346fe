"""The address of a worker's host."""

from __future__ import annotations

import socket
import threading

import pytest

from tailrace.engine.devices import worker_address
from tailrace.engine.devices.worker_address import find_address
from tailrace.engine.devices.worker_errors import WorkerUnavailableError
from tailrace.errors import ConfigurationError


def test_private_and_loopback_addresses_are_found() -> None:
    for host, address in (("localhost", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("127.1", "127.0.0.1")):
        assert find_address(host) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "8.8.8.8", "134744072", "255.255.255.255", "224.0.0.1"])
def test_public_addresses_are_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"devices has the worker {host}.*tunnel"):
        find_address(host)


def test_a_name_that_leads_to_a_public_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [entry])
    with pytest.raises(ConfigurationError, match=r"gpu-box \(93\.184\.215\.14\)"):
        find_address("gpu-box")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70])
def test_an_unknown_name_is_told(host: str) -> None:
    with pytest.raises(WorkerUnavailableError, match=f"at {host}, and this host isn't found"):
        find_address(host)


def test_a_silent_name_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [] if ended.wait() else None)
    monkeypatch.setattr(worker_address, "_LOOKUP_SECONDS", 0.05)
    with pytest.raises(WorkerUnavailableError, match="no name server answers"):
        find_address("gpu-box")
    ended.set()
