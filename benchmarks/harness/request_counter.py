"""A client that counts whole requests, to divide the CPU time of servers by them. It runs in its own process.

Each of its connections sends the next request when the last one is answered.
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

from benchmarks.harness import cpu_time
from benchmarks.harness.event_counter import CounterError

_WARM_UP_SECONDS = 0.5
_SILENCE_SECONDS = 30.0


class CpuPerRequest(NamedTuple):
    """Requests a second, and CPU seconds a request of each process and of the client."""

    rate: float
    process_cpu: tuple[float, ...]
    client_cpu: float


def measure_requests(port: int, connections: int, request: bytes, pids: Sequence[int], seconds: float) -> CpuPerRequest:
    """Send ``request`` over and over for ``seconds``, from another process. Raises CounterError."""
    parent_end, child_end = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_count, args=(child_end, port, connections, request, pids, seconds))
    process.start()
    child_end.close()
    try:
        found: CpuPerRequest = parent_end.recv()
    except EOFError:
        raise CounterError("the client has ended; what it said stands above") from None
    finally:
        process.join()
    return found


def _count(
    pipe: multiprocessing.connection.Connection,
    port: int,
    connections: int,
    request: bytes,
    pids: Sequence[int],
    seconds: float,
) -> None:
    selector = selectors.DefaultSelector()
    buffers: dict[socket.socket, bytes] = {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ)
        buffers[sock] = b""
        sock.sendall(request)

    def run(until: float) -> int:
        answered = 0
        while time.perf_counter() < until:
            ready = selector.select(_SILENCE_SECONDS)
            if not ready:
                raise CounterError("nothing came for a long time")
            for key, _ in ready:
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                data = sock.recv(65_536)
                buffers[sock] += data
                if not data or not buffers[sock].startswith(b"HTTP/1.1 200 "):
                    raise CounterError(f"the server answered: {buffers[sock][:300]!r}")
                if _is_whole(buffers[sock]):
                    answered += 1
                    buffers[sock] = b""
                    sock.sendall(request)
        return answered

    run(time.perf_counter() + _WARM_UP_SECONDS)
    began, before, own = time.perf_counter(), [cpu_time.seconds([pid]) for pid in pids], cpu_time.seconds([os.getpid()])
    count = run(began + seconds)
    after, own = [cpu_time.seconds([pid]) for pid in pids], cpu_time.seconds([os.getpid()]) - own
    took = time.perf_counter() - began
    if not count:
        raise CounterError("no request was answered while it was measured")
    per_process = tuple((end - start) / count for start, end in zip(before, after, strict=True))
    pipe.send(CpuPerRequest(count / took, per_process, own / count))
    for sock in buffers:
        sock.close()


def _is_whole(response: bytes) -> bool:
    head, found, body = response.partition(b"\r\n\r\n")
    if not found:
        return False
    _, named, rest = head.lower().partition(b"\r\ncontent-length:")
    if not named:
        raise CounterError(f"a response has no length: {head!r}")
    return len(body) >= int(rest.partition(b"\r\n")[0])
