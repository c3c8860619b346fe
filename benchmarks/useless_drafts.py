"""What drafting costs where it never pays: replies of a model whose prediction layer is always wrong, in pairs.

    python -m benchmarks.useless_drafts [NAME] [--turns 12] [--streams 1,4,8] [--control]

A figure is the speed with drafts ÷ without, by the engine process's CPU time and by wall time, prompts included. Short
replies alternate between the two servers, and a turn's figure is the quotient of its sums. The machine's speed changes
little from one reply to the next, and a probe now and then counts. ``--control`` compares two servers without drafts:
its figures would be 1 without noise.

One thread computes, so that the CPU time is work and no waiting. The model is one of benchmarks.synthetic, or a path.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import table
from benchmarks.harness.results import figure
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

_BOUND = 0.99
#: Tokens of a reply, and replies of each side in a turn.
_LENGTH = 32
_REPLIES = 8
_PROMPT = "Describe the town of number {number} as a traveller sees it, house by house and street by street."


class _Side:
    """A server, and the seconds of its replies in the present turn."""

    def __init__(self, client: BenchClient, engine: int) -> None:
        self._client = client
        self._engine = engine
        self.cpu = self.wall = 0.0

    def reply(self, number: int, streams: int) -> None:
        """Have so many replies at once, to prompts that no other ``number`` has."""
        requests = [
            BenchRequest(
                messages=[{"role": "user", "content": _PROMPT.format(number=1000 * number + stream)}],
                max_tokens=_LENGTH,
                exact_length=False,
                extra_fields={"temperature": 0.8, "seed": number, "ignore_eos": True},
            )
            for stream in range(streams)
        ]
        began, cpu = time.perf_counter(), cpu_time.seconds([self._engine])
        self._client.exchange(requests)
        self.cpu += cpu_time.seconds([self._engine]) - cpu
        self.wall += time.perf_counter() - began


def _turn(plain: _Side, drafting: _Side, turn: int, streams: int) -> tuple[float, float]:
    """The quotients of a turn: by CPU time, and by wall time."""
    for side in (plain, drafting):
        side.cpu = side.wall = 0.0
    for number in range(_REPLIES * turn, _REPLIES * (turn + 1)):
        for side in (plain, drafting) if number % 2 else (drafting, plain):
            side.reply(number, streams)
    return plain.cpu / drafting.cpu, plain.wall / drafting.wall


def _start(stack: contextlib.ExitStack, path: Path, speculate: str) -> _Side:
    earlier = set(cpu_time.descendants("tailrace.engine.process"))
    client = stack.enter_context(servers.tailrace(path, 1, speculate=speculate))
    (engine,) = set(cpu_time.descendants("tailrace.engine.process")) - earlier
    return _Side(client, engine)


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.useless_drafts", description="Cost of useless drafts.")
    parser.add_argument("model", nargs="?", default="qwen35-mtp-wrong-small", help="of benchmarks.synthetic, or a path")
    parser.add_argument("--turns", type=int, default=12, help="turns of each number of streams, after one to warm up")
    parser.add_argument("--streams", default="1,4,8", help="replies at once [1,4,8]")
    parser.add_argument("--control", action="store_true", help="compare two servers without drafts")
    options = parser.parse_args()
    if not cpu_time.available():
        sys.exit("CPU time is read from Linux's /proc")
    named = options.model in SHAPES
    path = synthetic(options.model, locate_model(STARTER_MODEL).path) if named else Path(options.model)
    with contextlib.ExitStack() as stack:
        plain, drafting = _start(stack, path, "off"), _start(stack, path, "off" if options.control else "auto")
        figures = []
        for streams in map(int, options.streams.split(",")):
            ratios = [_turn(plain, drafting, turn, streams) for turn in range(1 + options.turns)][1:]
            label = f"drafts ÷ none, {streams} at once"
            figures.append(figure(f"{label}, CPU", [cpu for cpu, _ in ratios], bound=_BOUND))
            figures.append(figure(f"{label}, wall", [wall for _, wall in ratios]))
    Console().print(table(figures))


if __name__ == "__main__":
    main()
