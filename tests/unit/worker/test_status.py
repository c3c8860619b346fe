"""A worker's reports, as an engine receives them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tailrace.engine.devices import worker_link, worker_watch
from tailrace.engine.devices.worker_link import WorkerLink, WorkerUnavailableError
from tailrace.engine.devices.worker_watch import WorkerWatch
from tailrace.errors import ConfigurationError
from tailrace.progress_page import ProgressPage
from tailrace.worker.client import find_client
from tailrace.worker.status_server import StatusServer
from tailrace.worker_status import STATUS_PORT_OFFSET, OfferedDevice, WorkerStatus, encode_status

STATUS = WorkerStatus(llama_cpp="1.2.3", threads=2, devices=(OfferedDevice("CPU", "a CPU", 10, 20),))


class Reporter:
    """A status server on loopback, in a thread, which reports ``status``."""

    def __init__(self) -> None:
        self.status = STATUS
        self.paused = False
        self._ended = False
        self._server = StatusServer("127.0.0.1", 0)
        self.port = self._server._socket.getsockname()[1]
        self.endpoint = f"127.0.0.1:{self.port - STATUS_PORT_OFFSET}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            if self.paused:
                time.sleep(0.01)
            else:
                self._server.beat(lambda: self.status)

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        for each in (self._server._socket, *self._server._listeners):
            each.close()


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    monkeypatch.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.02)
    found = Reporter()
    yield found
    found.close()


def test_each_engine_gets_the_state_at_once_and_then_each_change(reporter: Reporter) -> None:
    links = [WorkerLink(reporter.endpoint) for _ in range(3)]
    assert [link.status for link in links] == [STATUS] * 3
    reporter.status = WorkerStatus(llama_cpp="1.2.3", threads=2, devices=(), client="127.0.0.1:9")
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
    reporter.status = WorkerStatus(llama_cpp="1.2.3", threads=2, devices=(), client="127.0.0.1:9")
    page = ProgressPage()
    with pytest.raises(ConfigurationError, match=r"in use by 127\.0\.0\.1:9"):
        WorkerWatch([reporter.endpoint], "1.2.3").connect(page, first=True)
    watch = WorkerWatch([reporter.endpoint], "1.2.3")
    waiting = threading.Thread(target=watch.connect, args=(page,), kwargs={"first": False})
    waiting.start()
    while "in use" not in page.message:
        time.sleep(0.01)
    reporter.status = STATUS
    waiting.join()
    watch.close()
    assert page.message == ""
    assert watch.statuses == {reporter.endpoint: STATUS}


def test_another_version_of_llama_cpp_is_refused(reporter: Reporter) -> None:
    with pytest.raises(ConfigurationError, match=r"1\.2\.3.*1\.2\.4.*both must have the same"):
        WorkerWatch([reporter.endpoint], "1.2.4").connect(ProgressPage(), first=False)


def test_a_client_that_reads_nothing_is_dropped() -> None:
    server = StatusServer("127.0.0.1", 0)
    large = WorkerStatus(llama_cpp="x" * 60_000, threads=1, devices=())
    with socket.create_connection(server._socket.getsockname()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        monkey = pytest.MonkeyPatch()
        monkey.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.01)
        with monkey.context():
            server.beat(lambda: large)
            while server._listeners:
                server.beat(lambda: large)
        monkey.undo()
    server._socket.close()
    assert len(encode_status(large)) > 60_000


def test_the_connected_client_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert find_client(port) is None
        with socket.create_connection(("127.0.0.1", port)) as client:
            connection, _ = server.accept()
            with connection:
                found = find_client(port)
                assert found is not None
                assert found.address == f"127.0.0.1:{client.getsockname()[1]}"
            assert find_client(port) is None
