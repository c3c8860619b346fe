"""A client that counts events, to divide a server's CPU time by them. It runs in its own process.

It does less than the client of ``tailrace bench``: it stores no times and parses nothing.
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

from benchmarks.harness import cpu_time

#: Warm-up: events of each stream, and the seconds after them.
_WARM_UP_EVENTS = 3
_WARM_UP_SECONDS = 0.5
_SILENCE_SECONDS = 60.0


class CounterError(Exception):
    """The streams can't be measured; the text says why."""


class CounterSample(NamedTuple):
    """The counters at one time: the clock, all events, the CPU seconds of each process and of the client."""

    time: float
    events: int
    process_cpu: tuple[float, ...]
    client_cpu: float


class EventCounter:
    """Open streams of one server on this machine, and their event counts."""

    def __init__(self, port: int, streams: int, message: str, tokens: int) -> None:
        """Request ``streams`` replies of ``tokens`` to ``message``."""
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
        """Wait for bytes and count their events. Raises CounterError at a stream's end and after a long silence."""
        ready = self._selector.select(_SILENCE_SECONDS)
        if not ready:
            raise CounterError("nothing came for a long time")
        for key, _ in ready:
            data = self._sockets[key.data].recv(262_144)
            if not data or data.endswith(b"0\r\n\r\n"):
                raise CounterError("a stream has ended before the measurement")
            self.events[key.data] += data.count(b"data: ")

    def sample(self, pids: Sequence[int]) -> CounterSample:
        """The counters now."""
        process_cpu = tuple(cpu_time.seconds([pid]) for pid in pids)
        return CounterSample(time.perf_counter(), sum(self.events), process_cpu, cpu_time.seconds([os.getpid()]))

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets:
            sock.close()


class CpuPerToken(NamedTuple):
    """Between two samples: tokens a second, and CPU seconds a token of each process and of the client."""

    rate: float
    process_cpu: tuple[float, ...]
    client_cpu: float


def cpu_per_token(before: CounterSample, after: CounterSample) -> CpuPerToken:
    """The costs between two samples. Raises CounterError without an event between them."""
    events = after.events - before.events
    if not events:
        raise CounterError("no event came while it was measured")
    cpu = tuple((end - start) / events for start, end in zip(before.process_cpu, after.process_cpu, strict=True))
    return CpuPerToken(events / (after.time - before.time), cpu, (after.client_cpu - before.client_cpu) / events)


def measure_streams(
    port: int, streams: int, message: str, tokens: int, pids: Sequence[int], seconds: float
) -> CpuPerToken:
    """Count events in another process for ``seconds``, once all streams run."""
    parent_end, child_end = multiprocessing.Pipe()
    arguments = (child_end, port, streams, message, tokens, pids, seconds)
    process = multiprocessing.Process(target=_count, args=arguments)
    process.start()
    child_end.close()
    try:
        before, after = parent_end.recv()
    except EOFError:
        raise CounterError("the client has ended; what it said stands above") from None
    finally:
        process.join()
    return cpu_per_token(before, after)


def _count(
    pipe: multiprocessing.connection.Connection,
    port: int,
    streams: int,
    message: str,
    tokens: int,
    pids: Sequence[int],
    seconds: float,
) -> None:
    counter = EventCounter(port, streams, message, tokens)
    while min(counter.events) < _WARM_UP_EVENTS:
        counter.read()
    settled = time.perf_counter() + _WARM_UP_SECONDS
    while time.perf_counter() < settled:
        counter.read()
    before = counter.sample(pids)
    while time.perf_counter() < before.time + seconds:
        counter.read()
    pipe.send((before, counter.sample(pids)))
    counter.close()
