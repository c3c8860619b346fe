"""A client in a process of its own that counts events while the processes of a server are looked at.

It does less than ``tailrace bench``'s client: an event's time isn't noted, and nothing is parsed.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import selectors
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.harness import cpu

#: Events of each stream before anything is measured, and the seconds after them.
_EVENTS_FIRST = 3
_SECONDS_FIRST = 0.5
_SILENCE_SECONDS = 60.0


class ReaderError(Exception):
    """The streams can't be measured; says why."""


class Stamp(NamedTuple):
    """A moment: seconds of one clock, events so far, CPU seconds of each process and of the client."""

    time: float
    events: int
    cpu: tuple[float, ...]
    own: float


class Reader:
    """Open streams of one server on this machine."""

    def __init__(self, port: int, streams: int, message: str, tokens: int) -> None:
        """Ask for ``streams`` replies of ``tokens`` to ``message``."""
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self.events = [0] * streams
        fields = {"messages": [{"role": "user", "content": message}], "stream": True, "max_tokens": tokens}
        body = msgspec.json.encode({**fields, "temperature": 0, "ignore_eos": True})
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        for number in range(streams):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(head + body)
            self._selector.register(sock, selectors.EVENT_READ, number)
            self._sockets.append(sock)

    def read(self) -> None:
        """Wait for something and count it. Raises ReaderError at a stream's end and after a long silence."""
        ready = self._selector.select(_SILENCE_SECONDS)
        if not ready:
            raise ReaderError("nothing came for a long time")
        for key, _ in ready:
            data = self._sockets[key.data].recv(262_144)
            if not data or data.endswith(b"0\r\n\r\n"):
                raise ReaderError("a stream has ended before the measurement")
            self.events[key.data] += data.count(b"data: ")

    def stamp(self, pids: Sequence[int]) -> Stamp:
        """Now."""
        burnt = tuple(cpu.seconds([pid]) for pid in pids)
        return Stamp(time.perf_counter(), sum(self.events), burnt, cpu.seconds([os.getpid()]))

    def close(self) -> None:
        """Hang up."""
        for sock in self._sockets:
            sock.close()


class Spent(NamedTuple):
    """Between two stamps: tokens a second, CPU seconds a token of each process and of the client."""

    rate: float
    cpu: tuple[float, ...]
    own: float


def spent(before: Stamp, after: Stamp) -> Spent:
    """The difference. Raises ReaderError when nothing came in between."""
    events = after.events - before.events
    if not events:
        raise ReaderError("no event came while it was measured")
    burnt = tuple((late - early) / events for early, late in zip(before.cpu, after.cpu, strict=True))
    return Spent(events / (after.time - before.time), burnt, (after.own - before.own) / events)


def watch(port: int, streams: int, message: str, tokens: int, pids: Sequence[int], seconds: float) -> Spent:
    """Read streams in another process for ``seconds``, once all of them run."""
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, port, streams, message, tokens, pids, seconds)
    process = multiprocessing.Process(target=_read, args=arguments)
    process.start()
    theirs.close()
    try:
        before, after = ours.recv()
    except EOFError:
        raise ReaderError("the client has ended; what it said stands above") from None
    finally:
        process.join()
    return spent(before, after)


def _read(
    pipe: multiprocessing.connection.Connection,
    port: int,
    streams: int,
    message: str,
    tokens: int,
    pids: Sequence[int],
    seconds: float,
) -> None:
    reader = Reader(port, streams, message, tokens)
    while min(reader.events) < _EVENTS_FIRST:
        reader.read()
    settled = time.perf_counter() + _SECONDS_FIRST
    while time.perf_counter() < settled:
        reader.read()
    before = reader.stamp(pids)
    while time.perf_counter() < before.time + seconds:
        reader.read()
    pipe.send((before, reader.stamp(pids)))
    reader.close()
