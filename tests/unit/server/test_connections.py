"""Which connections have a place, which are closed for others, and which are reset for lack of memory."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tailrace.errors import RequestError, ShuttingDown
from tailrace.server.connection_limits import RESERVE, ConnectionLimits, connection_limits
from tailrace.server.connections import Connections
from tailrace.server.listener import Listener
from tailrace.server.transfer_pace import MIN_RATE, TransferPace
from tailrace.settings import Settings


class Client:
    """A connection that only records what happens to it."""

    def __init__(self, connections: Connections, address: str = "a", *, unsent: int = 0, seconds: float = 0.0) -> None:
        self.address = address
        self.unsent, self.seconds = unsent, seconds
        self.ends: list[str] = []
        self.stopped: RequestError | None = None
        connections.add(self)

    def check(self, now: float) -> int:
        return self.unsent

    def seconds_to_send(self, now: float) -> float:
        return self.seconds

    def reset(self, reason: str) -> None:
        self.ends.append(reason)

    def close_waiting(self) -> None:
        self.ends.append("closed")

    def stop(self, error: RequestError) -> None:
        self.stopped = error


def limits(connections: int = 20, send_memory: int = 1000) -> ConnectionLimits:
    return ConnectionLimits(connections, connections - connections // 10, 1.0, 1.0, 1.0, 75.0, send_memory, 1000)


def test_one_address_leaves_some_connections_to_others() -> None:
    async def run() -> None:
        connections = Connections(limits(20))
        for _ in range(18):
            assert connections.admit("a") == "all"
            connections.serve(Client(connections))
        assert connections.admit("a") == "status"
        assert connections.admit("b") == "all"

    asyncio.run(run())


def test_a_connection_that_waits_makes_place_for_a_new_one() -> None:
    async def run() -> None:
        connections = Connections(limits(10))
        busy = [Client(connections, "b") for _ in range(5)]
        for client in busy:
            connections.serve(client)
        idle = [Client(connections, "a") for _ in range(5)]
        connections.serve(idle[0])
        connections.wait(idle[0])  # It has waited for the shortest time now.
        assert connections.admit("c") == "all"
        assert [client.ends for client in idle] == [[], ["closed"], [], [], []]
        assert not any(client.ends for client in busy)
        assert len(connections) == 9

    asyncio.run(run())


def test_a_client_with_many_connections_closes_none_of_clients_with_few() -> None:
    async def run() -> None:
        connections = Connections(limits(10))
        few = Client(connections, "few")
        for address in ["many"] * 8 + ["other"]:
            connections.serve(Client(connections, address))
        assert connections.admit("many") == "status"
        assert few.ends == []

    asyncio.run(run())


def test_beyond_the_limit_a_few_may_ask_for_the_health_and_the_rest_is_refused() -> None:
    async def run() -> None:
        connections = Connections(limits(10))
        for number in range(10):
            connections.serve(Client(connections, str(number)))
        entries = []
        for _ in range(RESERVE + 1):
            entries.append(connections.admit("new"))
            if entries[-1] is not None:
                connections.serve(Client(connections, "new"))
        assert entries == ["status"] * RESERVE + [None]
        assert connections.refused == 1

    asyncio.run(run())


def test_beyond_the_memory_for_all_the_slowest_are_reset() -> None:
    connections = Connections(limits(send_memory=1000))
    quick = Client(connections, unsent=600, seconds=2.0)
    slow = Client(connections, unsent=300, seconds=600.0)
    slower = Client(connections, unsent=300, seconds=900.0)
    new = Client(connections, unsent=5000)
    connections.tick(0.0)
    assert [client.ends for client in (slower, slow, quick, new)] == [["slow_reader"], ["slow_reader"], [], []]


def test_a_single_large_reply_may_take_all_the_memory() -> None:
    connections = Connections(limits(send_memory=1000))
    alone = Client(connections, unsent=9000, seconds=50.0)
    connections.tick(0.0)
    assert alone.ends == []


def test_a_stopping_server_says_so_to_every_connection() -> None:
    connections = Connections(limits())
    client = Client(connections)
    error = ShuttingDown("stopping")
    connections.stop(error)
    assert client.stopped is connections.stopping is error


@pytest.mark.parametrize(
    ("setting", "files", "connections"), [(0, 1_000_000, 4096), (0, 256, 176), (10, 256, 10), (5000, 1024, 944)]
)
def test_the_number_of_connections_is_what_setting_and_open_files_allow(
    setting: int, files: int, connections: int
) -> None:
    found = connection_limits(Settings(max_connections=setting), files)
    assert found.connections == connections
    assert found.share == connections - connections // 10


def test_a_listener_without_files_makes_place_and_tries_again() -> None:
    """The listening socket fails as the kernel's does when a process may open no further file."""

    class Exhausted(socket.socket):
        failures = 0

        def accept(self) -> tuple[socket.socket, object]:
            if not Exhausted.failures:
                Exhausted.failures += 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    class Accepted(asyncio.Protocol):
        address = "127.0.0.1"

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    async def run() -> None:
        connections = Connections(limits())
        idle = Client(connections)
        made: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def make(address: str, entry: object) -> object:
            made.set_result(address)
            return Accepted()

        with Exhausted(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            listener = Listener(sock, connections, make, tls=None)  # type: ignore[arg-type]
            listener.start()
            with socket.create_connection(sock.getsockname()) as client:
                client.setblocking(False)
                assert await asyncio.wait_for(made, 20.0) == "127.0.0.1"
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b"", "it is closed again"
            listener.close()
        assert Exhausted.failures == 1
        assert idle.ends == ["closed"]

    asyncio.run(run())


def test_a_transfer_is_stuck_when_it_stands_still_or_drips() -> None:
    pace = TransferPace()
    pace.begin(100.0)
    assert not pace.is_stuck(110.0, 10.0)
    assert pace.is_stuck(110.1, 10.0)
    pace.move(110.0, 1)
    assert pace.is_stuck(110.2, 10.0), "a byte in ten seconds isn't a pace"
    pace.move(110.0, 10 * MIN_RATE)
    assert not pace.is_stuck(119.0, 10.0)
    pace.pause(5.0)
    assert not pace.is_stuck(124.0, 10.0)
    assert pace.is_stuck(126.0, 10.0)


def test_the_time_a_transfer_will_take_is_told_from_its_last_seconds() -> None:
    pace = TransferPace()
    pace.begin(0.0)
    pace.move(1.0, 1000)
    assert pace.seconds_left(1.0, 10_000) == 0.0
    pace.move(2.0, 1000)
    assert 5.0 < pace.seconds_left(2.0, 10_000) < 20.0
    for second in range(3, 30):
        pace.move(second, 0)
    assert pace.seconds_left(30.0, 10_000) > 5_000.0
