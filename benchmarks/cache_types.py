"""CPU time of steps behind long contexts, and memory, for each type of the KV cache: one thread, sides in turns.

    python -m benchmarks.cache_types [MODEL] [--rounds 4]

A side is a process with one type, and with our kernels or without. Contexts aren't computed: a short prefix state is
repeated to the wanted length, because the time of attention doesn't depend on the numbers. ``context`` is what a step
takes longer than with an empty cache, which compares attention alone.
"""

from __future__ import annotations

import argparse
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from tailrace.engine.backends.base import KVState
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, CacheType, Settings


class _Case(NamedTuple):
    name: str
    streams: int
    context: int  #: tokens of each stream
    tokens: int  #: of the timed pass, in each stream


_CASES = (
    _Case("8 replies behind 2,000 tokens each", 8, 2000, 1),
    _Case("1 reply behind 16,000 tokens", 1, 16_000, 1),
    _Case("a prompt's 128 tokens behind 4,000", 1, 4000, 128),
)
_STEPS = 6
_CELL = struct.Struct("<3i")


class _Side(NamedTuple):
    """A type of K and V, and who computes."""

    kind: CacheType
    kernels: str

    @property
    def name(self) -> str:
        return f"{self.kind}, {'own kernels' if self.kernels == 'on' else 'llama.cpp'}"


_SIDES = tuple(
    _Side(*each) for each in (("f16", "on"), ("bf16", "on"), ("q8_0", "on"), ("q4_0", "on"), ("q8_0", "off"))
)


class _Figures(msgspec.Struct, frozen=True):
    step: float  #: milliseconds
    empty: float  #: of the same pass with an empty cache
    memory: float  #: MB of keys and values


def _repeated(state: KVState, cells: int) -> KVState:
    """A state of so many cells, which repeats the rows of ``state``. Their format is in ``sequence_state``."""
    data = state.tobytes()
    (known,) = struct.unpack_from("<I", data, 12)
    parts = [data[:12], struct.pack("<I", cells)]
    parts += [_CELL.pack(position, 1, 0) for position in range(cells)]
    offset = 16 + _CELL.size * known
    transposed, layers = struct.unpack_from("<II", data, offset)
    assert not transposed, "values lie cell by cell with flash attention"
    parts.append(data[offset : offset + 8])
    offset += 8
    for _ in range(2 * layers):
        kind, row = struct.unpack_from("<iQ", data, offset)
        rows = data[offset + 12 : offset + 12 + row * known]
        offset += 12 + row * known
        parts += [struct.pack("<iQ", kind, row), (rows * (cells // known + 1))[: row * cells]]
    return np.frombuffer(b"".join(parts), np.uint8)


def _serve(path: Path, side: _Side) -> None:
    """Measure all cases for each line of standard input."""
    from tailrace.engine.kernels import loader
    from tailrace.observe import logs

    logs.configure("steps", level="warning", form="console")
    loader.choose(side.kernels)
    # Here, because kernels become active before llama.cpp is loaded.
    from tailrace.engine.backends.create_llama import create_llama
    from tailrace.engine.backends.llama.sequence_state import with_streams

    settings = Settings(
        ctx=16_384,
        kv_tokens=20_480,
        parallel=8,
        threads=1,
        threads_prefill=1,
        cache_type_k=side.kind,
        cache_type_v=side.kind,
    )
    backend = create_llama(path, settings)
    text = [100 + 7919 * index % 40_000 for index in range(512)]
    backend.decode(text[:128], list(range(128)), [0] * 128, [])
    short = with_streams(backend.kv_save(0), 1)
    assert short is not None, "the starter model's states can be adapted"

    def step(case: _Case, context: int) -> float:
        count = case.streams * case.tokens
        positions = list(range(context, context + case.tokens)) * case.streams
        slots = [slot for slot in range(case.streams) for _ in range(case.tokens)]
        replies = count if case.tokens == 1 else 0
        begun = time.process_time()
        backend.decode(text[:count], positions, slots, [count - 1], replies)
        seconds = time.process_time() - begun
        for slot in range(case.streams):
            backend.kv_truncate(slot, context)
        return 1e3 * seconds

    def steps(case: _Case, context: int) -> float:
        return statistics.median([step(case, context) for _ in range(_STEPS)][1:])

    def measure(case: _Case) -> _Figures:
        backend.reset()
        lengths = [case.context + case.tokens] * case.streams
        layout = backend.layout_policy.choose(lengths, backend.layout)
        assert layout is not None, "the cache holds each case"
        backend.kv_relayout(layout, [])
        empty, state = steps(case, 0), _repeated(short, case.context)
        for slot in range(case.streams):
            assert backend.kv_load(slot, state, case.context)
        return _Figures(steps(case, case.context), empty, case.streams * state.size / 1e6)

    for _ in sys.stdin:
        print(msgspec.json.encode(list(map(measure, _CASES))).decode(), flush=True)


class _Process:
    """A process that measures one side."""

    def __init__(self, path: Path, number: int) -> None:
        command = [sys.executable, "-m", "benchmarks.cache_types", str(path), "--measure", str(number)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self) -> list[_Figures]:
        """The figures of each case."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=list[_Figures])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Measure, and write a table for each case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache_types", description="Compare types of the KV cache."
    )
    parser.add_argument("model", nargs="?", default=STARTER_MODEL, help="a name in the store, or a path")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = locate_model(options.model).path
    if options.measure is not None:
        _serve(path, _SIDES[options.measure])
        return
    processes = [_Process(path, number) for number in range(len(_SIDES))]
    found: list[list[list[_Figures]]] = [[] for _ in _SIDES]
    for turn in range(options.rounds):
        for number in range(len(_SIDES)) if turn % 2 else reversed(range(len(_SIDES))):
            found[number].append(processes[number].measure())
    for process in processes:
        process.close()
    for index, case in enumerate(_CASES):
        print(f"\n{case.name}\n{'':24}{'ms a step':>10}{'÷ f16':>8}{'context, ms':>13}{'÷ f16':>8}{'KV, MB':>9}")
        for number, side in enumerate(_SIDES):
            each = [figures[index] for figures in found[number]]
            f16 = [figures[index] for figures in found[0]]
            steps, contexts = ([what(one) for one in each] for what in (_step, _context))
            print(
                f"{side.name:24}{statistics.median(steps):10.1f}{_ratio(_step, each, f16):8.2f}"
                f"{statistics.median(contexts):13.1f}{_ratio(_context, each, f16):8.2f}"
                f"{max(one.memory for one in each):9.0f}"
            )


def _step(figures: _Figures) -> float:
    return figures.step


def _context(figures: _Figures) -> float:
    return figures.step - figures.empty


def _ratio(what: Callable[[_Figures], float], each: list[_Figures], others: list[_Figures]) -> float:
    return statistics.median(what(one) / what(other) for one, other in zip(each, others, strict=True))


if __name__ == "__main__":
    main()
