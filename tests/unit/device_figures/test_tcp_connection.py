"""What the kernel counts of a connection on loopback. Other systems than Linux don't count."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from servers import PATIENCE
from tailrace.device_figures.tcp_connection import Connection, TcpReading, find_connections, read_tcp
from tailrace.engine.devices.link_meter import LinkMeter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts")


class Pair(NamedTuple):
    """Both ends of a connection."""

    here: socket.socket
    there: socket.socket
    endpoint: str


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def pair(listening: socket.socket) -> Iterator[Pair]:
    made = connect(listening)
    yield made
    made.here.close()
    made.there.close()


def connect(listening: socket.socket) -> Pair:
    host, port = listening.getsockname()
    here = socket.create_connection((host, port))
    return Pair(here, listening.accept()[0], f"{host}:{port}")


def found(pair: Pair) -> Connection:
    (connection,) = [each for each in find_connections() if each.here == pair.here.getsockname()]
    return connection


def exchange(pair: Pair, sent: int, received: int) -> None:
    for one, other, size in ((pair.here, pair.there, sent), (pair.there, pair.here, received)):
        one.sendall(bytes(size))
        while size:
            size -= len(other.recv(size))


def reading(connection: Connection) -> TcpReading:
    read = read_tcp(connection)
    assert read is not None
    return read


def test_bytes_are_counted_in_both_directions(pair: Pair) -> None:
    connection = found(pair)
    before = reading(connection)
    exchange(pair, sent=50_000, received=30_000)
    after = reading(connection)
    assert after.received - before.received == 30_000
    assert after.sent - before.sent == 50_000
    assert after.round_trip > 0


def test_time_of_sending_is_that_in_which_bytes_are_not_confirmed(pair: Pair) -> None:
    connection = found(pair)
    pair.here.setblocking(False)
    while select.select([], [pair.here], [], 0)[1]:  # Until the other end takes no more.
        pair.here.send(bytes(100_000))
    deadline = time.monotonic() + PATIENCE
    while reading(connection).sending_seconds < 0.2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_connection_has_no_figures(pair: Pair) -> None:
    connection = found(pair)
    pair.here.close()
    assert read_tcp(connection) is None


def test_another_connection_of_the_same_number_is_told_from_it(listening: socket.socket, pair: Pair) -> None:
    connection = found(pair)
    pair.here.close()
    with socket.socket() as other:
        assert other.fileno() == connection.descriptor
        assert read_tcp(connection) is None


def test_a_link_s_bytes_are_counted_by_their_use(listening: socket.socket, pair: Pair) -> None:
    exchange(pair, sent=1000, received=100)
    meter = LinkMeter(pair.endpoint)
    exchange(pair, sent=20, received=30)
    meter.count("other")
    for _ in range(2):
        exchange(pair, sent=5, received=7)
        meter.count("decode", steps=1)
    exchange(pair, sent=50, received=70)
    meter.count("prompt", steps=1)
    assert meter.figures is not None
    traffic = meter.figures.traffic
    # The kernel counts the connection's own beginning as a byte.
    assert traffic["load"].sent - 1000 in (0, 1)
    assert (traffic["load"].received, traffic["load"].steps) == (100, 0)
    assert (traffic["other"].sent, traffic["other"].received) == (20, 30)
    assert (traffic["decode"].steps, traffic["decode"].sent, traffic["decode"].received) == (2, 10, 14)
    assert (traffic["prompt"].steps, traffic["prompt"].sent, traffic["prompt"].received) == (1, 50, 70)


def test_a_link_goes_on_with_the_next_connection(listening: socket.socket) -> None:
    first = connect(listening)
    meter = LinkMeter(first.endpoint)
    exchange(first, sent=40, received=50)
    meter.count("decode", steps=1)
    for end in (first.here, first.there):
        end.close()
    meter.count("decode", steps=1)
    second = connect(listening)
    exchange(second, sent=400, received=500)
    meter.count("decode", steps=1)
    assert meter.figures is not None
    decode = meter.figures.traffic["decode"]
    assert decode.sent - 440 in (0, 1)
    assert decode.received == 550
    for end in (second.here, second.there):
        end.close()


def test_without_a_connection_there_are_no_figures(listening: socket.socket) -> None:
    host, port = listening.getsockname()
    meter = LinkMeter(f"{host}:{port}")
    meter.count("decode", steps=1)
    assert meter.figures is None
