"""Compares streams that pass through Ray Serve with the server alone: why the cluster's requests don't travel there.

Ray Serve has two ways in: its own HTTP proxy, and HAProxy in front of a deployment's own HTTP server. Behind each is
one deployment that relays to the server, as a replica of a cluster would.
"""

from __future__ import annotations

import time

from benchmarks.front_end import script
from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.event_counter import measure_streams
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.process_tree import find_descendants
from benchmarks.harness.rates import measure, total_rates
from benchmarks.harness.ray_relay import MODES, is_installed, ray_relay
from benchmarks.harness.results import figure
from tailrace.loadtest.load_profile import LoadProfile

STREAMS = (1, 8)
_TOKENS = 96
_NAMES = {"proxy": "Serve's proxy", "haproxy": "HAProxy and the deployment"}
#: Seconds of a step of the scripted backend, by which CPU time is divided by tokens.
_STEP_SECONDS = 0.005


def _measure(options: Options) -> Measurements:
    if not is_installed():
        raise Unavailable("Ray Serve is missing: pip install 'tailrace[cluster]'")
    found = Measurements()
    for mode in MODES:
        _compare(options, mode, found)
        if cpu_time.available():
            _measure_cpu(options, mode, found)
    found.notes.append(
        "Both sides of a ratio run beside the same Ray, so what it needs while it is idle is in neither."
    )
    return found


def _compare(options: Options, mode: str, found: Measurements) -> None:
    """Throughput and first tokens with a real model."""
    streams, tokens = options.streams(STREAMS), options.tokens(_TOKENS)
    with (
        servers.tailrace(options.model, options.threads, "--parallel", str(max(streams))) as direct,
        ray_relay(mode, direct.port) as (relayed, _),
    ):
        loads = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        runs = measure({"relayed": relayed.run, "direct": direct.run}, loads, options.turns, same_prompts=True)
    for count in streams:
        shown = f"{_NAMES[mode]}, {count} stream{'s' if count > 1 else ''}"
        relays, directs = runs["relayed"][count], runs["direct"][count]
        found.figures.append(
            figure(f"{shown}: throughput ÷ direct", paired_ratios(total_rates(relays), total_rates(directs)))
        )
        later = [one.ttft_median - other.ttft_median for one, other in zip(relays, directs, strict=True)]
        found.figures.append(figure(f"{shown}: first token later by", later, unit="ms", is_upper_bound=True))


def _measure_cpu(options: Options, mode: str, found: Measurements) -> None:
    """The CPU time of Ray's processes: idle, and for each token of paced streams."""
    seconds = 1.0 if options.quick else 3.0
    count = max(STREAMS)
    tokens = int((seconds + 3) / _STEP_SECONDS) + 100
    with (
        servers.tailrace(None, 1, "--parallel", str(count), fake_step_seconds=str(_STEP_SECONDS)) as direct,
        ray_relay(mode, direct.port) as (relayed, main),
    ):
        pids = [main, *(process.pid for process in find_descendants(main))]
        before = cpu_time.seconds(pids)
        time.sleep(seconds)
        idle = (cpu_time.seconds(pids) - before) / seconds
        runs = [
            measure_streams(relayed.port, count, script(tokens), tokens, pids, seconds)
            for _ in range(1 if options.quick else 3)
        ]
    name = _NAMES[mode]
    found.figures.append(figure(f"{name}: Ray's CPU while idle", [1e3 * idle], unit="ms/s", is_upper_bound=True))
    values = [1e6 * sum(run.process_cpu) for run in runs]
    found.figures.append(figure(f"{name}, {count} streams: Ray's CPU a token", values, unit="µs", is_upper_bound=True))
    found.figures.append(figure(f"{name}, {count} streams: tokens a second", [run.rate for run in runs], unit="tok/s"))


BENCHMARK = Benchmark("ray_paths", "What does a stream cost that passes through Ray Serve?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
