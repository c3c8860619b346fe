"""systemd's notifications, received by a socket of the test's own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.supervisor.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and its name in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(tmp_path / "notify") if request.param == "path" else f"@tailrace-test-{os.getpid()}-{id(sock)}"
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        yield sock, name


def heard(sock: socket.socket) -> list[str]:
    """The messages that have come."""
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


def test_the_life_of_a_service(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    environment = {"NOTIFY_SOCKET": name, "HOME": "/"}
    service = ServiceManager(environment)
    assert environment == {"HOME": "/"}, "a child must not speak for the server"
    assert service.is_there
    service.status("waiting for: engine")
    service.status("waiting for: engine")
    service.extend_start()
    service.ready("serving m")
    service.status("serving m")
    service.reloading()
    service.ready("serving m")
    service.stopping()
    sent = heard(sock)
    usec = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=([0-9]+)", sent.pop(3))
    assert usec is not None
    assert int(usec[1]) > 0
    assert sent == [
        "STATUS=waiting for: engine",
        "EXTEND_TIMEOUT_USEC=60000000",
        "READY=1\nSTATUS=serving m",
        "READY=1\nSTATUS=serving m",
        "STOPPING=1\nSTATUS=stopping: running replies finish",
    ]


def test_signs_of_life_come_at_half_of_the_watchdog_s_time(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    service = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())})
    assert service.watchdog_seconds == 5.0
    sent = []
    for second in range(100, 116):
        service.sign_of_life(float(second), 1.0)
        sent.append(len(heard(sock)))
    assert [number for number, count in enumerate(sent) if count] == [0, 5, 10, 15]


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "0"},
    ],
)
def test_a_watchdog_that_isn_t_meant_gets_nothing(environment: dict[str, str]) -> None:
    assert ServiceManager(environment).watchdog_seconds is None


def test_a_service_manager_that_is_gone_or_full_stops_nothing(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "full"))
        service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "full")})
        for _ in range(1000):
            service.extend_start()
