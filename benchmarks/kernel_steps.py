"""CPU time of steps with our kernels and without, in pairs on one thread: a ratio that a busy machine changes little.

    python -m benchmarks.kernel_steps experts-small [--rounds 4] [--threads 2] [--prompt 512] [--kernels avx2]
        [--peer FOLDER]

``--kernels`` is the setting on our side. ``--peer`` is a folder with libraries of llama.cpp of the binding's version
that were built for other instructions: the other side computes with them, and not with the binding's own.
The model is one of benchmarks.synthetic, or a path.

With more than one thread, time is wall time, and the last line has the share of the memory's bandwidth at one stream.
That is for a quiet machine: on a shared one threads that wait for each other measure the neighbours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.synthetic import SHAPES, synthetic
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings

_STREAMS = (1, 4, 8)
_STEPS = 8


def _serve(path: Path, choice: str, threads: int, prompt_tokens: int) -> None:
    """Measure for each line of standard input: milliseconds of a step of each number of streams, and of a prompt."""
    from tailrace.engine.kernels import loader
    from tailrace.observe import logs

    logs.configure("steps", level="warning", form="console")
    loader.choose(choice)
    # Here, because kernels become active before llama.cpp is loaded.
    from tailrace.engine.backends.create_llama import create_llama

    settings = Settings(
        ctx=2 * prompt_tokens + 1024,
        parallel=max(_STREAMS),
        threads=threads,
        threads_prefill=threads,
        prefill_chunk=prompt_tokens,
    )
    backend = create_llama(path, settings)
    clock = time.process_time if threads == 1 else time.perf_counter
    tokens = [100 + 7919 * index % 40_000 for index in range(max(prompt_tokens, _STEPS * max(_STREAMS)))]

    def timed(what: Callable[[], object]) -> float:
        started_at = clock()
        what()
        return 1e3 * (clock() - started_at)

    def step(streams: int, number: int) -> float:
        slots = list(range(streams))
        own = tokens[number * streams : (number + 1) * streams]
        return timed(lambda: backend.decode(own, [number] * streams, slots, slots, streams))

    def steps(streams: int) -> float:
        backend.reset()
        # Not the first ones, which make buffers and bring experts into memory.
        return statistics.median([step(streams, number) for number in range(_STEPS)][2:])

    def prompt() -> float:
        backend.reset()
        places = list(range(prompt_tokens))
        return timed(lambda: backend.decode(tokens[:prompt_tokens], places, [0] * prompt_tokens, places[-1:]))

    prompt()
    for _ in sys.stdin:
        print(msgspec.json.encode([*map(steps, _STREAMS), prompt()]).decode(), flush=True)


class _Side:
    """A process that measures with one choice of kernels."""

    def __init__(self, path: Path, choice: str, threads: int, prompt: int, peer: Path | None) -> None:
        environment = dict(os.environ) if peer is None else {**os.environ, "LLAMA_CPP_LIB_PATH": str(peer.resolve())}
        command = [sys.executable, "-m", "benchmarks.kernel_steps", str(path), "--threads", str(threads)]
        command += ["--prompt", str(prompt), "--measure", choice]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def measure(self) -> list[float]:
        """Milliseconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=list[float])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Measure, and write a line for each kind of step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_steps", description="Time steps' CPU.")
    parser.add_argument("model", help=f"{', '.join(SHAPES)}, a name in the store, or a path")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="with more than one, times are wall time [1]")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt [128]")
    parser.add_argument("--kernels", default="on", choices=("on", "avx512", "avx2"), help="the setting on our side")
    parser.add_argument("--peer", type=Path, help="a folder with libraries of llama.cpp for the other side")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    named = options.model in SHAPES
    path = synthetic(options.model, locate_model(STARTER_MODEL).path) if named else locate_model(options.model).path
    if options.measure:
        _serve(path, options.measure, options.threads, options.prompt)
        return
    # Not above: it loads llama.cpp, and the kernels with it, before a side has chosen its own.
    from benchmarks.harness.bandwidth_share import bandwidth_shares, memory_bandwidth, model_touched_bytes

    sides = {
        "on": _Side(path, options.kernels, options.threads, options.prompt, None),
        "off": _Side(path, "off", options.threads, options.prompt, options.peer),
    }
    found: dict[str, list[list[float]]] = {"on": [], "off": []}
    bandwidths: list[float] = []
    for number in range(options.rounds):
        for choice in ("on", "off") if number % 2 else ("off", "on"):
            found[choice].append(sides[choice].measure())
        if options.threads > 1:
            bandwidths.append(memory_bandwidth())
    for side in sides.values():
        side.close()
    for index, what in enumerate([*(f"{streams} streams" for streams in _STREAMS), f"a prompt of {options.prompt}"]):
        on, off = ([each[index] for each in found[choice]] for choice in ("on", "off"))
        ratio = statistics.median(b / a for a, b in zip(on, off, strict=True))
        print(
            f"{what:>16}: on {statistics.median(on):8.1f} ms, off {statistics.median(off):8.1f} ms, speed {ratio:.2f}"
        )
    if bandwidths:
        shares = bandwidth_shares(path, [1e3 / each[0] for each in found["on"]], bandwidths)
        touched, share = model_touched_bytes(path) / 1e6, statistics.median(shares)
        print(f"1 stream: {touched:.0f} MB a token, {share:.2f} of {statistics.median(bandwidths) / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
