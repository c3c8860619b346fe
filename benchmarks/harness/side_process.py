"""A process that measures one side without a server: ``python -m benchmarks.harness.side_process SIDE MODEL``.

A side has its own process, so its threads sleep while another side is measured. Standard input has the settings, then
one turn per line; standard output has the timings of each turn. All lines are JSON.

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

from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming
from tailrace.observe import logs
from tailrace.own_process.parent_death import die_with_parent
from tailrace.settings import Settings


class Turn(msgspec.Struct, frozen=True):
    """The user messages of concurrent replies, and the replies' length in tokens."""

    prompts: list[str]
    tokens: int


class SideSettings(msgspec.Struct, frozen=True):
    """The settings of a side."""

    settings: Settings
    streams: int  #: max
    context: int  #: max tokens of one stream
    unified: bool  #: of ``raw``: one shared KV cache, instead of one for each stream


class SideProcessError(Exception):
    """The process has ended; its messages are on standard error."""


class SideProcess:
    """The parent's handle of one process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, load: LoadProfile, turn: int) -> list[StreamTiming]:
        """One turn of ``load``. Raises SideProcessError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = msgspec.json.encode(Turn(load.prompts(turn), load.output_tokens))
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise SideProcessError("the process of a side has ended; its messages are above")
        return msgspec.json.decode(reply, type=list[StreamTiming])


@contextlib.contextmanager
def start_side(
    side: str, model: Path, settings: Settings, *, streams: int = 1, context: int = 2048, unified: bool = False
) -> Iterator[SideProcess]:
    """A process that measures ``side`` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.harness.side_process", side, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(SideSettings(settings, streams, context, unified)) + b"\n")
        process.stdin.flush()
        yield SideProcess(process)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _side(name: str, model: Path, side_settings: SideSettings) -> Callable[[list[str], int], object]:
    if name == "engine":
        from tailrace.tuning.engine_bench import EngineTurn

        return EngineTurn(model, side_settings.settings).run
    from benchmarks.harness.bare_llama import BareLlama

    threads = side_settings.settings.threads
    return BareLlama(
        model,
        threads=threads,
        streams=side_settings.streams,
        context=side_settings.context,
        unified=side_settings.unified,
    ).run


def main() -> None:
    """The process's main function."""
    die_with_parent()
    side_settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=SideSettings)
    logs.configure("engine", level="warning", form="console")
    run = _side(sys.argv[1], Path(sys.argv[2]), side_settings)
    for line in sys.stdin.buffer:
        turn = msgspec.json.decode(line, type=Turn)
        sys.stdout.buffer.write(msgspec.json.encode(run(turn.prompts, turn.tokens)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
