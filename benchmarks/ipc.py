"""Measures the cost of a step's message between two processes: tailrace's Unix socket with frames against ZeroMQ.

    pip install pyzmq; python benchmarks/ipc.py [--steps 2000] [--step-ms 4]

One process sends the message of a step with 8 tokens every few milliseconds, another one receives it on uvloop and
decodes it. Printed is the CPU time of both processes together for each message, threads included, less that of the same
loop without messages.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import socket
import tempfile
import time
from pathlib import Path

import uvloop
import zmq
import zmq.asyncio

from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import FromEngine, Step

STEP = Step(list(range(8)), [40_000 + n for n in range(8)], [], [], {})


def cpu() -> float:
    """CPU seconds of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def sender(kind: str, path: str, steps: int, seconds: float, report: multiprocessing.Queue[float]) -> None:
    """Send a message a step; report the CPU seconds."""
    if kind == "unix":
        channel = socket.socket(socket.AF_UNIX)
        while channel.connect_ex(path):  # The receiver may not listen yet.
            time.sleep(0.01)
        send = channel.sendall
    elif kind == "zeromq":
        push = zmq.Context().socket(zmq.PUSH)
        push.connect(f"ipc://{path}")
        send = push.send
    else:
        send = len  # type: ignore[assignment]  # any function of one argument will do
    time.sleep(0.5)
    started_at = cpu()
    for _ in range(steps):
        time.sleep(seconds)
        message = frame(STEP)
        send(message)
    report.put(cpu() - started_at)


async def receive_unix(path: Path, steps: int) -> None:
    """Receive as the HTTP process does."""
    done = asyncio.Event()

    class GenerationCallbacks(asyncio.Protocol):
        def __init__(self) -> None:
            self.frames: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
            self.left = steps

        def data_received(self, data: bytes) -> None:
            self.left -= len(self.frames.feed(data))
            if self.left <= 0:
                done.set()

    server = await asyncio.get_running_loop().create_unix_server(GenerationCallbacks, path)
    await done.wait()
    server.close()


async def receive_zeromq(path: Path, steps: int) -> None:
    """Receive with ZeroMQ's own asyncio socket."""
    pull = zmq.asyncio.Context().socket(zmq.PULL)
    pull.bind(f"ipc://{path}")
    decoder: FrameDecoder[FromEngine] = FrameDecoder(FromEngine)
    for _ in range(steps):
        decoder.feed(await pull.recv())
    pull.close()


def measure(kind: str, steps: int, seconds: float) -> float:
    """CPU seconds of both processes."""
    report: multiprocessing.Queue[float] = multiprocessing.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        process = multiprocessing.Process(target=sender, args=(kind, str(path), steps, seconds, report))
        process.start()
        started_at = cpu()
        if kind == "unix":
            uvloop.run(receive_unix(path, steps))
        elif kind == "zeromq":
            uvloop.run(receive_zeromq(path, steps))
        sender_seconds = report.get()
        receiver_seconds = cpu() - started_at
        process.join()
    return sender_seconds + (receiver_seconds if kind != "nothing" else 0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--step-ms", type=float, default=4.0)
    options = parser.parse_args()
    seconds = options.step_ms / 1e3
    base = measure("nothing", options.steps, seconds)
    for _ in range(3):
        costs = {kind: measure(kind, options.steps, seconds) - base for kind in ("unix", "zeromq")}
        each = {kind: 1e6 * cost / options.steps for kind, cost in costs.items()}
        print(f"unix {each['unix']:.0f} µs a step, zeromq {each['zeromq']:.0f} µs a step")


if __name__ == "__main__":
    main()
