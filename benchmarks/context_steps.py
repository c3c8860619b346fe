"""Steps behind a long context, for kernels and types of the KV cache in turns, and how far predictions differ.

    python -m benchmarks.context_steps gpt-oss-small --sides on:f16,off:f16
    python -m benchmarks.context_steps --sides on:f16,on:q8_0 --threads 2 --kl

A side is a process with one value of ``--kernels`` and one type of keys and values. The context is computed once, by
each side itself. With one thread, times are CPU time, which a busy machine changes little; with more, wall time, which
says what the memory's bandwidth allows. ``--kl`` compares predictions over the fixed text with the first side's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import numpy as np

from benchmarks.synthetic import SHAPES, synthetic
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, CacheType, Settings

_STEPS = 9
_PASS = 256  #: tokens of a pass that computes the context


class _Side(NamedTuple):
    """What a process measures with."""

    kernels: str
    kind: CacheType


class _Task(msgspec.Struct, frozen=True):
    """What a process is asked to measure."""

    model: str
    kernels: str
    kind: CacheType
    context: int
    threads: int
    logits: str | None  #: where predictions are written


def _serve(task: _Task) -> None:
    """Measure a step for each line of standard input: milliseconds."""
    from tailrace.engine.kernels import loader
    from tailrace.observe import logs

    logs.configure("steps", level="warning", form="console")
    loader.choose(task.kernels)
    # Here, because kernels become active before llama.cpp is loaded.
    from tailrace.engine.backends.create_llama import create_llama
    from tailrace.engine.weights.quality import predict

    settings = Settings(
        ctx=task.context + 512,
        parallel=1,
        threads=task.threads,
        threads_prefill=task.threads,
        cache_type_k=task.kind,
        cache_type_v=task.kind,
    )
    backend = create_llama(Path(task.model), settings)
    if task.logits is not None:
        predictions = predict(backend)
        np.savez(task.logits, logits=predictions.logits, following=predictions.following)
        backend.reset()
    layout = backend.layout_policy.choose([task.context + 256], backend.layout)
    if layout is not None:
        backend.kv_relayout(layout, [])
    tokens = [100 + 7919 * index % 30_000 for index in range(task.context)]
    for first in range(0, task.context, _PASS):
        part = tokens[first : first + _PASS]
        backend.decode(part, list(range(first, first + len(part))), [0] * len(part), [len(part) - 1])
    clock = time.process_time if task.threads == 1 else time.perf_counter
    place = task.context

    def step() -> float:
        nonlocal place
        begun = clock()
        backend.decode([7], [place], [0], [0], 1)
        place += 1
        return 1e3 * (clock() - begun)

    print("ready", flush=True)
    for _ in sys.stdin:
        # Not the first one, after the other side has had the caches.
        print(statistics.median([step() for _ in range(_STEPS)][1:]), flush=True)


class _Process:
    """A process that measures one side."""

    def __init__(self, task: _Task) -> None:
        command = [sys.executable, "-m", "benchmarks.context_steps", "--measure", msgspec.json.encode(task).decode()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("a side ended before it was measured")
        return line

    def measure(self) -> float:
        """Milliseconds of a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Measure, and write a line for each side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.context_steps", description="Time steps' attention.")
    parser.add_argument("model", nargs="?", default=STARTER_MODEL, help=f"{', '.join(SHAPES)}, a name, or a path")
    parser.add_argument("--sides", default="on:f16,off:f16", help="KERNELS:TYPE,... of K and V [on:f16,off:f16]")
    parser.add_argument("--context", type=int, default=8000, help="tokens before the steps [8000]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kl", action="store_true", help="compare predictions with the first side's")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        _serve(msgspec.json.decode(options.measure, type=_Task))
        return
    sides = [_Side(*each.split(":")) for each in options.sides.split(",")]
    if unknown := [side.kind for side in sides if side.kind not in get_args(CacheType)]:
        parser.error(f"there is no type {', '.join(unknown)}")
    named = options.model in SHAPES
    path = synthetic(options.model, locate_model(STARTER_MODEL).path) if named else locate_model(options.model).path
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{number}.npz" if options.kl else None for number in range(len(sides))]
        processes = [
            _Process(_Task(str(path), *side, options.context, options.threads, file))
            for side, file in zip(sides, files, strict=True)
        ]
        found: list[list[float]] = [[] for _ in sides]
        for turn in range(options.rounds):
            for number in range(len(sides)) if turn % 2 else reversed(range(len(sides))):
                found[number].append(processes[number].measure())
        for process in processes:
            process.close()
        print(f"a step behind {options.context:,} tokens, {options.threads} thread(s)")
        for side, times in zip(sides, found, strict=True):
            ratio = statistics.median(first / each for first, each in zip(found[0], times, strict=True))
            name = f"kernels {side.kernels}, {side.kind}"
            print(f"{name:>20}: {statistics.median(times):8.2f} ms, speed ÷ the first side's {ratio:.2f}")
        for side, file in zip(sides[1:], files[1:], strict=True):
            if file is not None:
                assert files[0] is not None
                print(_difference(f"{side.kernels}, {side.kind}", files[0], file))


def _difference(name: str, original: str, other: str) -> str:
    """How far the predictions of a side are from the first side's."""
    from tailrace.engine.weights.quality import Predictions, compare

    before, after = (Predictions(data["logits"], data["following"]) for data in map(np.load, (original, other)))
    quality = compare(before, after)
    return (
        f"{name:>20}: KL divergence {quality.divergence:.4f} (99th percentile {quality.divergence_p99:.4f}), the same "
        f"best token at {100 * quality.same_top:.1f} % of {quality.tokens:,} positions"
    )


if __name__ == "__main__":
    main()
