"""Gaps of four running streams while conversations come to a worker and leave it, over links of three speeds.

    python -m benchmarks.device_states [--model PATH] [--turns 1]

All layers are on the worker, on loopback. The slower links are simulated (``harness/slow_link.py``). Five conversations
come one after the other to a KV cache that has cells for two of them. So their states leave the worker for host memory,
and the first one comes back. A model with recurrent layers has checkpoints, which come from the worker, too.
"""

from __future__ import annotations

import contextlib
import statistics
import urllib.request
from typing import NamedTuple

from benchmarks.flood import Flood, moves
from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.results import figure
from benchmarks.harness.slow_link import SlowLink
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_stats import percentile

#: Tokens of a conversation, and cells of the KV cache.
_PROMPT, _CELLS = 700, 4096
_BOUND, _GAP_BOUND = 3.0, 100.0
_METRIC = "tailrace:engine_state_transfer"


class _Link(NamedTuple):
    """``latency``: seconds in each direction. ``bandwidth``: bytes a second in each direction; 0: unlimited."""

    name: str
    latency: float
    bandwidth: float


_LINKS = (
    _Link("loopback", 0.0, 0.0),
    _Link("1 Gbit/s, 1 ms", 0.0005, 117e6),
    _Link("100 Mbit/s, 10 ms", 0.005, 11.7e6),
)


def _measure(options: Options) -> Measurements:
    found = Measurements()
    for link in _LINKS[:1] if options.quick else _LINKS:
        turns, transfers = [], []
        for turn in range(min(options.turns, 3)):
            done, moved = _turn(options, link, turn)
            turns.append(done)
            transfers.append(moved)
        worst = [percentile(turn.gaps_during, 0.99) for turn in turns]
        without = [statistics.median(turn.gaps_without) for turn in turns]
        bound = _GAP_BOUND if link.latency == 0.0 else None
        found.figures += [
            figure(
                f"{link.name}: p99 gap ÷ median gap without",
                paired_ratios(worst, without),
                bound=_BOUND,
                is_upper_bound=True,
            ),
            figure(
                f"{link.name}: longest gap",
                [max(turn.gaps_during) for turn in turns],
                unit="ms",
                bound=bound,
                is_upper_bound=True,
            ),
            figure(f"{link.name}: median gap without", without, unit="ms"),
            figure(
                f"{link.name}: the first one's next turn: tokens from the cache", [turn.cached_tokens for turn in turns]
            ),
        ]
        for direction in ("from_devices", "to_devices"):
            found.figures += [
                figure(f"{link.name}: transfers {direction}", [each["s", direction] for each in transfers]),
                figure(f"{link.name}: MB {direction}", [each["_bytes", direction] / 1e6 for each in transfers]),
                figure(
                    f"{link.name}: seconds {direction}", [each["_seconds", direction] for each in transfers], unit="s"
                ),
            ]
    return found


def _turn(options: Options, link: _Link, turn: int) -> tuple[Flood, dict[tuple[str, str], float]]:
    size = 200 if options.quick else _PROMPT
    threads = max(1, options.threads // 2)
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(servers.worker(threads))
        slow = SlowLink(worker, latency=link.latency, bandwidth=link.bandwidth)
        stack.callback(slow.close)
        flags = ("--devices", slow.endpoint, "--parallel", "6", "--ctx", str(_CELLS), "--kv-tokens", str(_CELLS))
        client = stack.enter_context(servers.tailrace(options.model, threads, *flags))
        return moves(client, turn, size), _transfers(client)


def _transfers(client: BenchClient) -> dict[tuple[str, str], float]:
    """The server's counters of transfers, by the end of their names and direction."""
    with urllib.request.urlopen(f"http://127.0.0.1:{client.port}/metrics") as response:
        lines = response.read().decode().splitlines()
    return {
        (ending, direction): sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{_METRIC}{ending}_total{{") and f'"{direction}"' in line
        )
        for ending in ("s", "_bytes", "_seconds")
        for direction in ("from_devices", "to_devices")
    }


BENCHMARK = Benchmark(
    "device_states", "How much do states that move between a worker and host memory slow running streams?", _measure
)

if __name__ == "__main__":
    run_alone(BENCHMARK)
