"""The flood on the clock of the loop's CPU time, for machines that are shared.

    python -m benchmarks.flood_steps [NAME,NAME | all] [--prompt 2000] [--wall]

The engine's loop runs in this process, with one thread, and takes its CPU time for the time. So a gap is what the
engine itself causes, and the prefill budget isn't disturbed by other programs. Four streams run: at first a long prompt
is read beside them, then three conversations come one by one, with slots for two, and the first one's next turn.

``--wall``: on the wall clock, with the planned threads. It says how much of the CPUs other virtual machines had.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.flood import SMALL_SHAPES
from benchmarks.harness.machine import stolen_seconds
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.engine import loop as engine_loop
from tailrace.engine.backends.base import Backend
from tailrace.engine.load import load_llama, make_loop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.loadtest.load_stats import percentile
from tailrace.models.model_reference import locate_model
from tailrace.observe import logs
from tailrace.protocol import Step, Submit
from tailrace.settings import STARTER_MODEL, Settings

_STREAMS = 4
_SLOTS = _STREAMS + 2
_CONVERSATIONS = 3
#: Tokens of every stream before the prompt comes, and quiet steps whose median counts.
_TOKENS_BEFORE = 128
_QUIET_STEPS = 60
#: Tokens of prompts: ordinary ones in the vocabulary of each synthetic model and of the starter model.
_TOKENS = range(1000, 20_000)


class _Result(msgspec.Struct):
    """Gaps in milliseconds of CPU time, ratios to the quiet gap of replies as long."""

    alone_seconds: float
    prompt_seconds: float
    prompt_ratio: float
    prompt_longest: float
    moves_ratio: float
    moves_longest: float
    cached: int


class _Run:
    """A loop of one backend, and the gaps of its streams."""

    def __init__(self, backend: Backend, settings: Settings, model: Path, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._clock = clock
        self._loop = make_loop(backend, settings, model)
        self._random = random.Random(5)
        self.gaps: list[float] = []
        self.tokens: dict[int, list[int]] = {}  #: of each sequence
        self.cached: dict[int, int] = {}

    def ask(self, identity: int, length: int, max_tokens: int, begin: list[int] | None = None) -> None:
        """Queue a prompt: ``begin``, and ``length`` tokens more."""
        prompt = [*(begin or []), *self._random.choices(_TOKENS, k=length)]
        params = GenerationParams(max_tokens=max_tokens, ignore_eos=True, sampling=Sampling(temperature=0.0))
        sequence = prepare_sequence(self._backend, Submit(id=identity, prompt=prompt, params=params))
        assert isinstance(sequence, Sequence), "the engine refuses a prompt"
        self.tokens[identity] = sequence.tokens
        self._loop.inbox.put(sequence)

    def until(self, ended: Callable[[Step], bool]) -> list[float]:
        """Step until ``ended``; the steps' times."""
        self.gaps = []
        while True:
            self._loop.take()
            begun = self._clock()
            step = self._loop.step(lambda _: None)
            self.gaps.append(1e3 * (self._clock() - begun))
            if step is not None:
                self.cached.update({started.id: started.cached_tokens for started in step.started})
                if ended(step):
                    return self.gaps

    def until_finished(self, identity: int) -> list[float]:
        """Step until the sequence has ended."""
        return self.until(lambda step: any(finished.id == identity for finished in step.finished))

    def until_longer(self, tokens: int) -> list[float]:
        """Step until the first stream has so many tokens more."""
        end = len(self.tokens[0]) + tokens
        return self.until(lambda _: len(self.tokens[0]) >= end)


def _ratio(gaps: list[float], before: float, after: float) -> float:
    """The 99th percentile of the gaps ÷ the quiet gap, which grows evenly from ``before`` to ``after``."""
    return percentile([gap / (before + (after - before) * i / len(gaps)) for i, gap in enumerate(gaps)], 0.99)


def measure(model: Path, prompt_tokens: int, *, wall: bool) -> _Result:
    """Flood one model, on the wall clock or with one thread on the clock of its CPU time."""
    threads = 0 if wall else 1
    settings = Settings(threads=threads, threads_prefill=threads, parallel=_SLOTS, speculate="off", keep_disk_mb=0)
    backend = load_llama(model, settings)
    clock = time.perf_counter if wall else time.thread_time
    try:
        with patch.object(engine_loop, "time", SimpleNamespace(perf_counter=clock, monotonic=time.monotonic)):
            return _flood(_Run(backend, settings, model, clock), prompt_tokens)
    finally:
        backend.close()


def _flood(run: _Run, prompt_tokens: int) -> _Result:
    run.ask(100, prompt_tokens, 2)
    alone = sum(run.until_finished(100))
    for stream in range(_STREAMS):
        run.ask(stream, 32, 4000)
    run.until(lambda _: all(len(run.tokens[stream]) >= 32 + _TOKENS_BEFORE for stream in range(_STREAMS)))
    before = statistics.median(run.until_longer(_QUIET_STEPS))
    run.ask(101, prompt_tokens, 2)
    prompt = run.until_finished(101)
    between = statistics.median(run.until_longer(_QUIET_STEPS))
    moves: list[float] = []
    for conversation in range(200, 200 + _CONVERSATIONS):
        run.ask(conversation, prompt_tokens, 2)
        moves += run.until_finished(conversation)
    run.ask(300, 8, 2, begin=run.tokens[200])
    moves += run.until_finished(300)
    after = statistics.median(run.until_longer(_QUIET_STEPS))
    return _Result(
        alone / 1e3,
        sum(prompt) / 1e3,
        _ratio(prompt, before, between),
        max(prompt),
        _ratio(moves, between, after),
        max(moves),
        run.cached[300],
    )


def main() -> None:
    """Measure each model, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood_steps", description="A flood in CPU time.")
    parser.add_argument(
        "models", nargs="?", default="", help="of benchmarks.synthetic, as NAME,NAME; all: a small one of each kind"
    )
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of prompts and conversations [2000]")
    parser.add_argument("--wall", action="store_true", help="the wall clock, and the planned threads")
    options = parser.parse_args()
    logs.configure("flood_steps", level="warning", form="console")
    starter = locate_model(STARTER_MODEL).path
    names = SMALL_SHAPES if options.models == "all" else [name for name in options.models.split(",") if name]
    if unknown := [name for name in names if name not in SHAPES]:
        parser.error(f"there is no synthetic model {unknown[0]}; benchmarks/README.md lists them")
    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for column in ("alone", "beside", "p99 ÷ quiet", "longest", "moves: p99", "longest", "cached"):
        table.add_column(column, justify="right")
    begun, stolen = time.monotonic(), stolen_seconds()
    for name in names or [""]:
        path = synthetic(name, starter) if name else starter
        found = measure(path, options.prompt, wall=options.wall)
        table.add_row(
            name or path.stem,
            f"{found.alone_seconds:.1f} s",
            f"{found.prompt_seconds:.1f} s",
            f"{found.prompt_ratio:.2f}",
            f"{found.prompt_longest:.0f} ms",
            f"{found.moves_ratio:.2f}",
            f"{found.moves_longest:.0f} ms",
            str(found.cached),
        )
    Console().print(table)
    if options.wall:
        seconds, stolen = time.monotonic() - begun, stolen_seconds() - stolen
        Console().print(f"Other virtual machines had {stolen:.1f} CPU seconds in these {seconds:.0f} s.")


if __name__ == "__main__":
    main()
