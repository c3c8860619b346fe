"""The HTTP process alone, fed by a scripted engine at the other end of its socket: what one process can carry.

Engine and client are one process on a core of its own, so that neither limits the HTTP process, which has another.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.harness.reader import Reader, ReaderError, Spent, spent
from tailrace import ipc
from tailrace.child import Start
from tailrace.engine.backends.fake import FakeBackend
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.protocol import PROTOCOL_VERSION, Accepted, Cancel, Hello, Started, Step, Submit, ToEngine
from tailrace.settings import Settings

#: Steps that may be under way while the slowest stream reads: one is read, one is sent. More would be read together,
#: and a stream's events written together, which costs less than it would in earnest.
_AHEAD = 2
_TEXT = b"time and the river "


def flat_out(streams: int, seconds: float) -> Spent:
    """As many tokens as go through; ``cpu`` is the HTTP process's. Its inverse is what the process can carry: engine
    and client take turns with it, so the rate is lower.
    """
    with tempfile.TemporaryDirectory() as folder, _http_process(Path(folder) / "engine.sock") as (pid, port):
        ours, theirs = multiprocessing.Pipe()
        arguments = (theirs, Path(folder) / "engine.sock", port, pid, streams, seconds)
        process = multiprocessing.Process(target=_feed, args=arguments)
        process.start()
        theirs.close()
        try:
            before, after = ours.recv()
        except EOFError:
            raise ReaderError("the scripted engine has ended; what it said stands above") from None
        finally:
            process.join()
    return spent(before, after)


@contextlib.contextmanager
def _http_process(path: Path) -> Iterator[tuple[int, int]]:
    """Started as the supervisor starts it: its process id and port."""
    with ipc.listen(path) as unix, socket.create_server(("127.0.0.1", 0), backlog=512) as tcp:
        settings = Settings(backend="fake", log_level="error")
        start = Start(
            settings=settings,
            plan=make_plan(read_topology(), settings),
            parent=os.getpid(),
            model_name="fake",
            model_path=None,
            socket_path=str(path),
            http_fd=tcp.fileno(),
            ipc_fd=unix.fileno(),
            announce=False,
        )
        command = [sys.executable, "-m", "tailrace.server.process"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(tcp.fileno(), unix.fileno()))
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(start))
            process.stdin.close()
            yield process.pid, tcp.getsockname()[1]
        finally:
            process.terminate()
            process.wait()


def _feed(
    pipe: multiprocessing.connection.Connection, path: Path, port: int, http: int, streams: int, seconds: float
) -> None:
    """Engine and client: a step is sent as soon as the slowest stream is near enough."""
    backend = FakeBackend(ctx=1_000_000, parallel=streams, kv_tokens=0, batch=streams)
    sock = ipc.connect(path, 10.0)
    channel: ipc.Channel[ToEngine] = ipc.Channel(sock, ToEngine)
    hello = Hello(
        protocol=PROTOCOL_VERSION, pid=os.getpid(), replica=0, model=backend.info, vocabulary=backend.vocabulary
    )
    channel.send(hello)
    reader = Reader(port, streams, "hello", 900_000)
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
            # The first event is the role's.
            while sent + 1 < min(reader.events) + _AHEAD:
                sock.sendall(frames[sent % len(frames)])
                sent += 1
            reader.read()

    run(time.perf_counter() + 0.5)
    before = reader.stamp([http])
    run(before.time + seconds)
    pipe.send((before, reader.stamp([http])))
    reader.close()
    # The engine stays until the HTTP process has let go of every stream: it would report them as lost.
    gone = 0
    while gone < streams and (messages := channel.receive()) is not None:
        gone += sum(isinstance(message, Cancel) for message in messages)
    channel.close()
