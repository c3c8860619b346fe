"""Measures the capacity of the HTTP process, with a scripted engine at the other end of its socket.

The scripted engine and the client are one process on one core; the HTTP process has another core.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec

from benchmarks.harness.event_counter import CounterError, CpuPerToken, EventCounter, cpu_per_token
from tailrace import ipc
from tailrace.child import Start
from tailrace.engine.backends.fake import FakeBackend
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.protocol import PROTOCOL_VERSION, Accepted, Cancel, Hello, Started, Step, Submit, ToEngine
from tailrace.settings import Settings
from tailrace.shared_memory.memory_file import create_page

#: Steps in flight while the slowest stream reads. The HTTP process would read more of them at once, and write several
#: events together, which costs less than real steps do.
_STEPS_IN_FLIGHT = 2
_TEXT = b"time and the river "


def measure_capacity(streams: int, seconds: float) -> CpuPerToken:
    """The HTTP process's CPU time of a token at full load. Its inverse is the capacity of the process.

    The measured rate is lower, because engine and client wait for each other.
    """
    with _http_process() as (pid, port, hub):
        parent_end, child_end = multiprocessing.Pipe()
        arguments = (child_end, hub, port, pid, streams, seconds)
        process = multiprocessing.Process(target=_feed, args=arguments)
        process.start()
        child_end.close()
        try:
            before, after = parent_end.recv()
        except EOFError:
            raise CounterError("the scripted engine has ended; its messages are above") from None
        finally:
            process.join()
    return cpu_per_token(before, after)


@contextlib.contextmanager
def _http_process() -> Iterator[tuple[int, int, socket.socket]]:
    """Start the HTTP process as the supervisor does. Gives its process id, its port and the engine's end of the hub."""
    http_hub, engine_hub = ipc.connection_hub()
    page = create_page()
    with http_hub, engine_hub, socket.create_server(("127.0.0.1", 0), backlog=512) as tcp:
        settings = Settings(backend="fake", log_level="error")
        start = Start(
            settings=settings,
            plan=make_plan(read_topology(), settings),
            parent=os.getpid(),
            model_name="fake",
            model_path=None,
            hub_fd=http_hub.fileno(),
            progress_fd=page,
            http_fd=tcp.fileno(),
            announce=False,
        )
        command = [sys.executable, "-P", "-m", "tailrace.server.process"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(tcp.fileno(), http_hub.fileno(), page))
        os.close(page)
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(start))
            process.stdin.close()
            yield process.pid, tcp.getsockname()[1], engine_hub
        finally:
            process.terminate()
            process.wait()


def _feed(
    pipe: multiprocessing.connection.Connection, hub: socket.socket, port: int, http: int, streams: int, seconds: float
) -> None:
    """Run engine and client: the next step is sent when the slowest stream is ``_STEPS_IN_FLIGHT`` behind."""
    backend = FakeBackend(ctx=1_000_000, parallel=streams, kv_tokens=0, batch=streams)
    sock = ipc.offer_connection(hub)
    channel: ipc.Channel[ToEngine] = ipc.Channel(sock, ToEngine)
    hello = Hello(
        protocol=PROTOCOL_VERSION, pid=os.getpid(), replica=0, model=backend.info, vocabulary=backend.vocabulary
    )
    channel.send(hello)
    reader = EventCounter(port, streams, "hello", 900_000)
    ids: list[int] = []
    while len(ids) < streams:
        for message in channel.receive() or []:
            assert isinstance(message, Submit)
            ids.append(message.id)
            channel.send(Accepted(message.id, 1))
    channel.send(Step([], [], [Started(identity, 0) for identity in ids], [], {}))
    first, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(http, [first])
    os.sched_setaffinity(0, others or [first])
    frames = [ipc.frame(Step(ids, [value] * streams, [], [], {})) for value in _TEXT]
    sent = 0

    def run(until: float) -> None:
        nonlocal sent
        while time.perf_counter() < until:
            # The first event has the role alone.
            while sent + 1 < min(reader.events) + _STEPS_IN_FLIGHT:
                sock.sendall(frames[sent % len(frames)])
                sent += 1
            reader.read()

    run(time.perf_counter() + 0.5)
    before = reader.sample([http])
    run(before.time + seconds)
    pipe.send((before, reader.sample([http])))
    reader.close()
    # The HTTP process would report streams as lost if the engine ended before it has cancelled all of them.
    cancelled = 0
    while cancelled < streams and (messages := channel.receive()) is not None:
        cancelled += sum(isinstance(message, Cancel) for message in messages)
    channel.close()
