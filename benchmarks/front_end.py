"""Measures the CPU time of a token outside of the model, in the engine process and in the HTTP process.

Paced: ``tailrace serve`` with the scripted backend, whose steps sleep as long as a model would compute. Its own work, a
few microseconds a token, counts as the engine's. With a model: a real one, whose threads leave cold caches and no idle
core to the HTTP process. Capacity: the HTTP process at full load, see ``harness.scripted_engine``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.event_counter import CpuPerToken, measure_streams
from benchmarks.harness.results import Curve, Figure, Plot, figure
from benchmarks.harness.scripted_engine import measure_capacity

STREAMS = (1, 8, 64, 256)
STEPS_MS = (5, 20)
#: CPU of both processes a token at 8 streams, microseconds.
BOUND = 80.0
#: Tokens a second through one HTTP process on one core, at least.
CAPACITY = 20_000.0
_TEXT = "time and the river "


def script(tokens: int) -> str:
    """A message that makes the scripted backend reply with that many tokens."""
    return f"<say>{(_TEXT * (tokens // len(_TEXT) + 1))[:tokens]}</say>"


def paced(streams: int, step_ms: float, seconds: float) -> CpuPerToken:
    """The CPU time of the engine process and of the HTTP process, with the scripted backend's steps."""
    tokens = int((seconds + 3) * 1e3 / step_ms) + 100
    # Large prefill chunks: else the first streams would end before the last ones begin.
    wide = ("--ctx", "16384", "--prefill-chunk", "65536", "--parallel", str(streams))
    with servers.tailrace(None, 1, *wide, fake_step_seconds=str(step_ms / 1e3), step_ms="1000") as client:
        return measure_streams(client.port, streams, script(tokens), tokens, _pids(), seconds)


def with_model(options: Options, streams: int, seconds: float) -> CpuPerToken:
    """The CPU time of both processes with a real model."""
    with servers.tailrace(options.model, options.threads, "--parallel", str(streams)) as client:
        return measure_streams(client.port, streams, "Write a long story about a river.", 4000, _pids(), seconds)


def _pids() -> Sequence[int]:
    (engine,) = cpu_time.descendants("tailrace.engine.process")
    (http,) = cpu_time.descendants("tailrace.server.process")
    return [engine, http]


def _figure(what: str, values: Sequence[float], bound: float | None = None) -> Figure:
    return figure(what, [1e6 * value for value in values], unit="µs", bound=bound, is_upper_bound=True)


def _measure(options: Options) -> Measurements:
    if not cpu_time.available():
        raise Unavailable("CPU time is read from Linux's /proc")
    found = Measurements()
    turns, seconds = (1, 1.0) if options.quick else (min(options.turns, 3), 3.0)
    streams = options.streams(STREAMS)
    medians: dict[float, list[float]] = {step: [] for step in STEPS_MS}
    for step in STEPS_MS:
        for count in streams:
            runs = [paced(count, step, seconds) for _ in range(turns)]
            both = [sum(run.process_cpu) for run in runs]
            medians[step].append(1e6 * statistics.median(both))
            where = f"{count} stream{'s' if count > 1 else ''}, steps of {step} ms"
            found.figures.append(_figure(f"both processes, {where}", both, BOUND if count == 8 else None))
            found.figures.append(_figure(f"HTTP process, {where}", [run.process_cpu[1] for run in runs]))
    for count in options.streams((1, 8)):
        runs = [with_model(options, count, seconds) for _ in range(turns)]
        several = f"{count} stream{'s' if count > 1 else ''}"
        found.figures.append(_figure(f"HTTP process with a model, {several}", [run.process_cpu[1] for run in runs]))
        found.figures.append(_figure(f"measuring client with a model, {several}", [run.client_cpu for run in runs]))
    for count in streams[1:]:
        capacity = [1 / measure_capacity(count, seconds).process_cpu[0] for _ in range(turns)]
        what = f"one HTTP process, {count} streams: tokens a second of its CPU time"
        found.figures.append(figure(what, capacity, unit="tok/s", bound=CAPACITY))
    found.plots.append(
        Plot(
            title="CPU of both processes outside of the model",
            x="streams",
            y="µs a token",
            curves=[
                Curve(label=f"steps of {step} ms", x=list(map(float, streams)), y=medians[step]) for step in STEPS_MS
            ],
            bound=BOUND,
        )
    )
    return found


BENCHMARK = Benchmark("front_end", "What does a token cost outside of the model?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
