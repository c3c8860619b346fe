"""A worker's reports, as an engine receives them, and the claims on it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tailrace.engine.devices import rpc_greeting, worker_link, worker_watch
from tailrace.engine.devices.rpc_greeting import check_rpc_port
from tailrace.engine.devices.worker_errors import WorkerUnavailableError
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.engine.devices.worker_watch import WorkerWatch
from tailrace.errors import ConfigurationError
from tailrace.shared_memory.progress_page import ProgressPage
from tailrace.worker.client import cut_client, find_client
from tailrace.worker.status_server import StatusServer
from tailrace.worker_protocol.status import STATUS_PORT_OFFSET, WorkerStatus, encode_status
from worker_reporter import STATUS, WorkerReporter

IN_USE = msgspec.structs.replace(STATUS, client="127.0.0.1:9")


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerReporter]:
    monkeypatch.setattr("tailrace.worker.status_server.BEAT_SECONDS", 0.02)
    found = WorkerReporter()
    yield found
    found.close()


def test_each_engine_gets_the_state_at_once_and_then_each_change(reporter: WorkerReporter) -> None:
    links = [WorkerLink(reporter.endpoint) for _ in range(3)]
    assert [link.status for link in links] == [STATUS] * 3
    reporter.status = IN_USE
    for link in links:
        while link.next_status().client != "127.0.0.1:9":
            pass
        link.close()


def test_silence_is_noticed(reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_link, "SILENCE_SECONDS", 0.2)
    link = WorkerLink(reporter.endpoint)
    reporter.paused = True
    with pytest.raises(WorkerUnavailableError, match="silent"):
        _listen_forever(link)
    link.close()


def _listen_forever(link: WorkerLink) -> None:
    while True:
        link.next_status()


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port of loopback where ``answer`` gets the first connection; the worker's address whose status port it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):  # The client may leave while it still writes.
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1] - STATUS_PORT_OFFSET}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no tailrace worker"),
        (b"x" * 1_000_000, "no tailrace worker"),
        (b"[" * 60_000 + b"\n", "no tailrace worker"),
        (b'{"x": ' * 10_000 + b"\n", "nested too deeply"),
        (b"\xff\xfe\n", "no tailrace worker"),
        (encode_status(STATUS).replace(b'"free":10', b'"free":-10'), r">= 0 .*free"),
        (encode_status(STATUS).replace(b'"free":10', b'"free":' + b"9" * 5000), r"free"),
        (encode_status(STATUS).replace(b'"CPU"', b'"' + b"x" * 1000 + b'"'), r"length <= 200"),
        (b"", "has ended"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_worker_is_told_from_one(answer: bytes, reason: str) -> None:
    with (
        answering(lambda connection: connection.sendall(answer)) as endpoint,
        pytest.raises(WorkerUnavailableError, match=f"{reason}.* Is a tailrace worker there"),
    ):
        WorkerLink(endpoint)


def test_a_few_bytes_at_a_time_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_link, "SILENCE_SECONDS", 0.2)

    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(b" ")
            time.sleep(0.01)

    with answering(drip) as endpoint, pytest.raises(WorkerUnavailableError, match="silent"):
        WorkerLink(endpoint)


def test_reports_that_came_while_the_engine_was_suspended_are_read() -> None:
    lines = encode_status(STATUS) * 2000
    with answering(lambda connection: connection.sendall(lines)) as endpoint:
        link = WorkerLink(endpoint)
        for _ in range(1999):
            assert link.next_status() == STATUS
        link.close()


def test_a_first_engine_gives_up_and_a_later_one_waits(
    reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_watch, "_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(worker_watch, "_RETRY_SECONDS", 0.02)
    reporter.status = IN_USE
    page = ProgressPage()
    with pytest.raises(ConfigurationError, match=r"in use by 127\.0\.0\.1:9"):
        WorkerWatch("1.2.3").connect([reporter.endpoint], page, first=True)
    assert page.message == ""
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


def test_one_engine_at_a_time_gets_a_worker(reporter: WorkerReporter) -> None:
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


def test_a_claim_ends_in_silence(reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_of_two_workers_an_engine_gets_both_or_none(reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_watch, "_FIRST_SECONDS", 0.0)
    second = WorkerReporter()
    second.status = IN_USE
    with pytest.raises(ConfigurationError, match=second.endpoint):
        WorkerWatch("1.2.3").connect([reporter.endpoint, second.endpoint], ProgressPage(), first=True)
    second.close()
    link = WorkerLink(reporter.endpoint)
    while link.next_status().holder is not None:
        pass
    link.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"engine": 1}\n',
        b"x" * 5000,
        b'{"engine": "' + b"y" * 5000,
        b'{"x":' + b"[" * 1900 + b"\n",
    ],
)
def test_what_is_no_claim_ends_its_connection_alone(reporter: WorkerReporter, sent: bytes) -> None:
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


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "isn't llama.cpp's RPC server"),
        (b"", "isn't llama.cpp's RPC server"),
    ],
)
def test_a_worker_of_which_a_tunnel_brings_one_port_is_refused(
    reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch, greeting: bytes, reason: str
) -> None:
    monkeypatch.setattr(worker_watch, "_FIRST_SECONDS", 0.0)
    reporter.greeting = greeting
    with pytest.raises(ConfigurationError, match=reason):
        WorkerWatch("1.2.3").connect([reporter.endpoint], ProgressPage(), first=True)


def test_a_port_of_a_worker_that_is_silent_or_closed_is_refused(
    reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_greeting, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(WorkerUnavailableError, match=f"its port {port} doesn't answer"):
            check_rpc_port("127.0.0.1", port)
    with pytest.raises(WorkerUnavailableError, match=f"its port {port} can't be reached"):
        check_rpc_port("127.0.0.1", port)


def test_a_worker_with_two_addresses_is_named_once(reporter: WorkerReporter) -> None:
    reporter.status = msgspec.structs.replace(STATUS, identity="a")
    other = reporter.endpoint.replace("127.0.0.1", "localhost")
    watch = WorkerWatch("1.2.3")
    with pytest.raises(ConfigurationError, match=f"one worker twice: {reporter.endpoint} and {other}"):
        watch.connect([reporter.endpoint, other], ProgressPage(), first=True)


def test_clients_that_keep_connections_keep_no_engine_out(
    reporter: WorkerReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.worker.status_server._MAX_LISTENERS", 8)
    holder = WorkerLink(reporter.endpoint)
    holder.claim("an engine")
    with contextlib.ExitStack() as idle:
        for _ in range(12):
            idle.enter_context(socket.create_connection(("127.0.0.1", reporter.port)))
            holder.next_status()
        other = WorkerLink(reporter.endpoint)
        with pytest.raises(WorkerUnavailableError, match="in use by an engine"):
            other.claim("another engine")
        other.close()
        holder.next_status()
        holder.check_claim()
    holder.close()


def test_another_version_of_llama_cpp_is_refused(reporter: WorkerReporter) -> None:
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
    with (
        answering(lambda connection: connection.sendall(report + b"\n")) as endpoint,
        pytest.raises(ConfigurationError, match=which),
    ):
        WorkerWatch("1.2.3").connect([endpoint], ProgressPage(), first=False)


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
