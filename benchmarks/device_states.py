"""Gaps of four running streams while conversations come to a worker and leave it, over links of three speeds.

    python -m benchmarks.device_states [--model PATH] [--turns 1]

All layers are on the worker, on loopback. The slower links are simulated (``harness/slow_link.py``). Five conversations
come one after the other to a server with slots for two of them. So their states leave the worker for host memory, and
the first one comes back. A model with recurrent layers has checkpoints, which come from the worker, too.
"""

from __future__ import annotations

import contextlib
import urllib.request
from typing import NamedTuple

from benchmarks.flood import Flood, moves
from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.move_figures import move_figures
from benchmarks.harness.results import figure
from benchmarks.harness.slow_link import SlowLink
from tailrace.loadtest.bench_client import BenchClient

#: Tokens of a conversation. Over the slowest link a step takes 0.1 s, most of it for the logits of four replies.
_PROMPT = 300
#: Tokens of each stream where it runs alone.
_QUIET_TOKENS = 300
#: Tokens that a request may have. The KV cache has them for every slot, so no stream is paused.
_CONTEXT = 4096
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
        found.figures += move_figures(link.name, turns, bounds_longest=link.latency == 0.0)
        for direction in ("from_devices", "to_devices"):
            found.figures += [
                figure(f"{link.name}, transfers {direction}", [each["s", direction] for each in transfers]),
                figure(f"{link.name}, MB {direction}", [each["_bytes", direction] / 1e6 for each in transfers]),
                figure(
                    f"{link.name}, seconds {direction}", [each["_seconds", direction] for each in transfers], unit="s"
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
        flags = ("--devices", slow.endpoint, "--parallel", "6", "--ctx", str(_CONTEXT))
        client = stack.enter_context(servers.tailrace(options.model, threads, *flags))
        return moves(client, turn, size, quiet_tokens=_QUIET_TOKENS), _transfers(client)


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
