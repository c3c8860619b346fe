"""What a token costs outside of the model, in the engine's and in the HTTP process, and how many the latter carries.

Paced: ``tailrace serve`` with the scripted backend, whose steps sleep as long as a model's would compute; its own work
(a few microseconds a token) counts as the engine's. Beside the model: the same with a real one, whose threads leave the
HTTP process cold caches and no idle core; the engine's figure then is the model's. Flat out: see ``harness.scripted``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.harness import cpu, servers
from benchmarks.harness.part import Findings, NotHere, Options, Part, standalone
from benchmarks.harness.reader import Spent, watch
from benchmarks.harness.results import Curve, Figure, Plot, figure
from benchmarks.harness.scripted import flat_out

STREAMS = (1, 8, 64, 256)
#: Milliseconds.
STEPS = (5, 20)
#: CPU of both processes a token at 8 streams, microseconds.
BOUND = 80.0
#: Tokens a second through one HTTP process on one core.
CARRIED = 20_000.0
_TEXT = "time and the river "


def script(tokens: int) -> str:
    """A message that the scripted backend answers with so many tokens."""
    return f"<say>{(_TEXT * (tokens // len(_TEXT) + 1))[:tokens]}</say>"


def paced(streams: int, step_ms: float, seconds: float) -> Spent:
    """At the pace of steps that long: CPU of the engine's process and of the HTTP process."""
    tokens = int((seconds + 3) * 1e3 / step_ms) + 100
    # Prompts are read in few steps, or the first streams would end before the last begin.
    wide = ("--ctx", "16384", "--prefill-chunk", "65536", "--parallel", str(streams))
    with servers.tailrace(None, 1, *wide, fake_step_seconds=str(step_ms / 1e3), step_ms="1000") as client:
        return watch(client.port, streams, script(tokens), tokens, _pids(), seconds)


def beside(options: Options, streams: int, seconds: float) -> Spent:
    """At the pace of a real model."""
    with servers.tailrace(options.model, options.threads, "--parallel", str(streams)) as client:
        return watch(client.port, streams, "Write a long story about a river.", 4000, _pids(), seconds)


def _pids() -> Sequence[int]:
    (engine,) = cpu.descendants("tailrace.engine.process")
    (http,) = cpu.descendants("tailrace.server.process")
    return [engine, http]


def _figure(what: str, values: Sequence[float], bound: float | None = None) -> Figure:
    return figure(what, [1e6 * value for value in values], unit="µs", bound=bound, at_most=True)


def _measure(options: Options) -> Findings:
    if not cpu.available():
        raise NotHere("CPU time is read from Linux's /proc")
    found = Findings()
    turns, seconds = (1, 1.0) if options.quick else (min(options.turns, 3), 3.0)
    streams = options.streams(STREAMS)
    medians: dict[float, list[float]] = {step: [] for step in STEPS}
    for step in STEPS:
        for count in streams:
            runs = [paced(count, step, seconds) for _ in range(turns)]
            both = [sum(run.cpu) for run in runs]
            medians[step].append(1e6 * statistics.median(both))
            where = f"{count} stream{'s' if count > 1 else ''}, steps of {step} ms"
            found.figures.append(_figure(f"both processes, {where}", both, BOUND if count == 8 else None))
            found.figures.append(_figure(f"HTTP process, {where}", [run.cpu[1] for run in runs]))
    for count in options.streams((1, 8)):
        runs = [beside(options, count, seconds) for _ in range(turns)]
        several = f"{count} stream{'s' if count > 1 else ''}"
        found.figures.append(_figure(f"HTTP process beside the model, {several}", [run.cpu[1] for run in runs]))
        found.figures.append(_figure(f"measuring client beside the model, {several}", [run.own for run in runs]))
    for count in streams[1:]:
        carried = [1 / flat_out(count, seconds).cpu[0] for _ in range(turns)]
        what = f"one HTTP process, {count} streams: tokens a second of its CPU time"
        found.figures.append(figure(what, carried, unit="tok/s", bound=CARRIED))
    found.plots.append(
        Plot(
            title="CPU of both processes outside of the model",
            x="streams",
            y="µs a token",
            curves=[Curve(label=f"steps of {step} ms", x=list(map(float, streams)), y=medians[step]) for step in STEPS],
            bound=BOUND,
        )
    )
    return found


PART = Part("front_end", "What does a token cost outside of the model?", _measure)

if __name__ == "__main__":
    standalone(PART)
