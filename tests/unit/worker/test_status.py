"""A worker's reports, as an engine receives them, and the claims on it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from tailrace.engine.devices import worker_link, worker_watch
from tailrace.engine.devices.worker_link import WorkerLink, WorkerUnavailableError
from tailrace.engine.devices.worker_watch import WorkerWatch
from tailrace.errors import ConfigurationError
from tailrace.progress_page import ProgressPage
from tailrace.worker.client import cut_client, find_client
from tailrace.worker.status_server import StatusServer
from tailrace.worker_status import PROTOCOL, STATUS_PORT_OFFSET, OfferedDevice, WorkerStatus, encode_status

STATUS = WorkerStatus(llama_cpp="1.2.3", threads=2, devices=(OfferedDevice("CPU", "a CPU", 10, 20),), protocol=PROTOCOL)
IN_USE = msgspec.structs.replace(STATUS, client="127.0.0.1:9")


class Reporter:
    """A status server on loopback, in a thread, which reports ``status``."""

    def __init__(self) -> None:
        self.status = STATUS
        self.paused = False
        self.released = 0  #: claims that have ended
        self._ended = False
        self._server = StatusServer("127.0.0.1", 0, self._release)
        self.port = self._server.port
        self.endpoint = f"127.0.0.1:{self.port - STATUS_PORT_OFFSET}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            if self.paused:
                time.sleep(0.01)
            else:
                self._server.beat(lambda: msgspec.structs.replace(self.status, holder=self._server.holder))

    def _release(self) -> None:
        self.released += 1

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self._server.close()


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    monkeypatch.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.02)
    found = Reporter()
    yield found
    found.close()


def test_each_engine_gets_the_state_at_once_and_then_each_change(reporter: Reporter) -> None:
    links = [WorkerLink(reporter.endpoint) for _ in range(3)]
    assert [link.status for link in links] == [STATUS] * 3
    reporter.status = IN_USE
    for link in links:
        while link.next_status().client != "127.0.0.1:9":
            pass
        link.close()


def test_silence_is_noticed(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_link, "SILENCE_SECONDS", 0.2)
    link = WorkerLink(reporter.endpoint)
    reporter.paused = True
    with pytest.raises(WorkerUnavailableError, match="silent"):
        _listen_forever(link)
    link.close()


def _listen_forever(link: WorkerLink) -> None:
    while True:
        link.next_status()


def test_what_is_no_worker_is_told_from_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WorkerUnavailableError, match="no tailrace worker"):
            WorkerLink(f"127.0.0.1:{port - STATUS_PORT_OFFSET}")
        thread.join()


def test_a_first_engine_gives_up_and_a_later_one_waits(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_watch, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(worker_watch, "_RETRY_SECONDS", 0.02)
    reporter.status = IN_USE
    page = ProgressPage()
    with pytest.raises(ConfigurationError, match=r"in use by 127\.0\.0\.1:9"):
        WorkerWatch("1.2.3").connect([reporter.endpoint], page, first=True)
    watch = WorkerWatch("1.2.3")
    waiting = threading.Thread(target=watch.connect, args=([reporter.endpoint], page), kwargs={"first": False})
    waiting.start()
    while "in use" not in page.message:
        time.sleep(0.01)
    reporter.status = STATUS
    waiting.join()
    assert page.message == ""
    assert watch.statuses[reporter.endpoint].holder is not None
    assert watch.connect([reporter.endpoint], page, first=True) == [], "this process has it already"
    watch.close()


def test_one_engine_at_a_time_gets_a_worker(reporter: Reporter) -> None:
    links = [WorkerLink(reporter.endpoint) for _ in range(4)]
    granted: list[WorkerLink] = []
    refused: list[str] = []

    def claim(number: int, link: WorkerLink) -> None:
        try:
            link.claim(f"engine {number}")
            granted.append(link)
        except WorkerUnavailableError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=claim, args=each) for each in enumerate(links)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (holder,) = granted
    assert len(refused) == 3
    assert all(f"in use by engine {links.index(holder)}, and it has one engine at a time" in each for each in refused)
    holder.close()
    other = next(link for link in links if link is not holder)
    while other.next_status().holder == f"engine {links.index(holder)}":
        pass
    assert reporter.released == 1
    other.claim("the next")
    other.check_claim()
    for link in links:
        link.close()


def test_a_claim_ends_in_silence(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.worker.status_server.CLAIM_SECONDS", 0.1)
    silent, other = WorkerLink(reporter.endpoint), WorkerLink(reporter.endpoint)
    silent.claim("a silent engine")
    while other.next_status().holder is not None:
        pass
    assert reporter.released == 1
    with pytest.raises(WorkerUnavailableError):
        _listen_forever(silent)
    for link in (silent, other):
        link.close()


def test_of_two_workers_an_engine_gets_both_or_none(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_watch, "_FIRST_SECONDS", 0.0)
    second = Reporter()
    second.status = IN_USE
    with pytest.raises(ConfigurationError, match=second.endpoint):
        WorkerWatch("1.2.3").connect([reporter.endpoint, second.endpoint], ProgressPage(), first=True)
    second.close()
    link = WorkerLink(reporter.endpoint)
    while link.next_status().holder is not None:
        pass
    link.close()


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b'{"engine": 1}\n', b"x" * 5000, b'{"engine": "' + b"y" * 5000]
)
def test_what_is_no_claim_ends_its_connection_alone(reporter: Reporter, sent: bytes) -> None:
    link = WorkerLink(reporter.endpoint)
    link.claim("an engine")
    with socket.create_connection(("127.0.0.1", reporter.port)) as stranger:
        stranger.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass
    link.next_status()
    link.check_claim()
    link.close()


def test_another_version_of_llama_cpp_is_refused(reporter: Reporter) -> None:
    with pytest.raises(ConfigurationError, match=r"1\.2\.3.*1\.2\.4.*both must have the same"):
        WorkerWatch("1.2.4").connect([reporter.endpoint], ProgressPage(), first=False)


@pytest.mark.parametrize(
    ("report", "which"),
    [
        (b'{"llama_cpp": "1.2.3", "threads": 2, "devices": []}', "an older version"),
        (b'{"protocol": 99, "everything": "is different"}', "a newer version"),
    ],
)
def test_another_version_of_tailrace_is_refused(report: bytes, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(report + b"\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigurationError, match=which):
            WorkerWatch("1.2.3").connect([f"127.0.0.1:{port - STATUS_PORT_OFFSET}"], ProgressPage(), first=False)
        thread.join()


def test_a_client_that_reads_nothing_is_dropped() -> None:
    server = StatusServer("127.0.0.1", 0)
    large = WorkerStatus(llama_cpp="x" * 60_000, threads=1, devices=())
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        monkey = pytest.MonkeyPatch()
        monkey.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.01)
        with monkey.context():
            server.beat(lambda: large)
            while server._listeners:
                server.beat(lambda: large)
        monkey.undo()
    server.close()
    assert len(encode_status(large)) > 60_000


def test_the_connected_client_is_found_and_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert find_client(port) is None
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, _ = server.accept()
            with connection:
                address = f"127.0.0.1:{client.getsockname()[1]}"
                found = find_client(port)
                assert found is not None
                assert found.address == cut_client(port) == address
                assert connection.recv(1) == client.recv(1) == b"", "both ends know it"
            assert find_client(port) is None
            assert cut_client(port) is None
