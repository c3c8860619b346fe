"""A process that measures one side without a server: ``python -m benchmarks.harness.worker SIDE MODEL``.

It has its own process so that its threads sleep while another side is measured. Standard input brings the settings and
then one turn a line, standard output takes each turn's timings, all as JSON.

SIDE is ``engine`` (the loop that the server runs, see tailrace.tuning.engine_bench) or ``raw`` (llama.cpp alone, see
``raw``).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tailrace.child import die_with_parent
from tailrace.loadtest.load import Load, StreamTiming
from tailrace.observe import logs
from tailrace.settings import Settings


class Turn(msgspec.Struct, frozen=True):
    """User messages that are answered together, and how long the replies are."""

    prompts: list[str]
    tokens: int


class Orders(msgspec.Struct, frozen=True):
    """What a worker is told at its start."""

    settings: Settings
    streams: int  #: at most
    context: int  #: tokens of one stream at most
    unified: bool  #: raw: one KV cache for all, instead of a stream for each


class WorkerError(Exception):
    """The worker has ended; what it said is on standard error."""


class Worker:
    """The parent's end of one worker."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, load: Load, turn: int) -> list[StreamTiming]:
        """One turn of ``load``. Raises WorkerError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = msgspec.json.encode(Turn(load.prompts(turn), load.output_tokens))
        self._process.stdin.write(order + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError("a worker has ended; what it said stands above")
        return msgspec.json.decode(line, type=list[StreamTiming])


@contextlib.contextmanager
def working(
    side: str, model: Path, settings: Settings, *, streams: int = 1, context: int = 2048, unified: bool = False
) -> Iterator[Worker]:
    """A worker for the time of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.harness.worker", side, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(Orders(settings, streams, context, unified)) + b"\n")
        process.stdin.flush()
        yield Worker(process)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _side(name: str, model: Path, orders: Orders) -> Callable[[list[str], int], object]:
    if name == "engine":
        from tailrace.tuning.engine_bench import EngineTurn

        return EngineTurn(model, orders.settings).run
    from benchmarks.harness.raw import RawEngine

    threads = orders.settings.threads
    return RawEngine(model, threads=threads, streams=orders.streams, context=orders.context, unified=orders.unified).run


def main() -> None:
    """The worker."""
    die_with_parent()
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    logs.configure("engine", level="warning", form="console")
    run = _side(sys.argv[1], Path(sys.argv[2]), orders)
    for line in sys.stdin.buffer:
        turn = msgspec.json.decode(line, type=Turn)
        sys.stdout.buffer.write(msgspec.json.encode(run(turn.prompts, turn.tokens)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
