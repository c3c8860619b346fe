"""What four running streams feel of somebody's prompt of 4,000 tokens."""

from __future__ import annotations

import contextlib
import statistics
from functools import partial

import msgspec

from benchmarks.harness import servers
from benchmarks.harness.pairs import in_turns, percentile, ratios
from benchmarks.harness.part import Findings, NotHere, Options, Part, standalone
from benchmarks.harness.results import Curve, Plot, figure
from benchmarks.llama_server import peer_server
from tailrace.loadtest.client import BenchClient
from tailrace.loadtest.load import Load, StreamTiming

_STREAMS = 4
_PROMPT = 4000
#: Tokens that every stream has before the prompt comes: enough of them for a 99th percentile.
_CALM = 128
_BOUND = 3.0


class Flood(msgspec.Struct):
    """One turn: gaps in milliseconds, each with its end in seconds after the prompt was sent."""

    calm: list[float]  #: gaps before
    during: list[float]  #: gaps while it was read
    points: list[tuple[float, float]]
    seconds: float  #: until its first token
    tokens: int  #: that the longest reply had by then
    #: gaps of the same replies, from where the prompt came to where it was read, without it
    undisturbed: list[float] = []


def flood(client: BenchClient, turn: int, prompt_tokens: int) -> Flood:
    """Four streams run, then the prompt comes; all are left when it has its first tokens."""
    running = Load(streams=_STREAMS, prompt_tokens=32, output_tokens=4000).asks(turn)
    (prompt,) = Load(streams=1, prompt_tokens=prompt_tokens, output_tokens=2).asks(100_000 + turn)
    # The role's event and the tokens of the stream that was asked last, so that all run.
    late = msgspec.structs.replace(prompt, after=(_STREAMS - 1, _CALM + 1))
    found = evaluate(client.exchange([*running, late], until=_STREAMS))
    # The longer replies are, the longer their steps take: a prompt that takes seconds is not to blame for that.
    same = Load(streams=_STREAMS, prompt_tokens=32, output_tokens=max(found.tokens, 2 * _CALM))
    for stream in client.run(same, turn):
        found.undisturbed += stream.gaps[_CALM:]
    return found


def evaluate(timings: list[StreamTiming]) -> Flood:
    """From the moments of the running streams' tokens and, last, of the prompt's."""
    *streams, prompt = timings
    begun = max(stream.tokens[0] for stream in streams)
    tokens = max(sum(moment <= prompt.first for moment in stream.tokens) for stream in streams)
    found = Flood([], [], [], prompt.first - prompt.asked, tokens)
    for stream in streams:
        for before, after in zip(stream.tokens, stream.tokens[1:], strict=False):
            gap = 1e3 * (after - before)
            if begun <= before and after <= prompt.asked:
                found.calm.append(gap)
            elif after > prompt.asked and before < prompt.first:
                found.during.append(gap)
            found.points.append((after - prompt.asked, gap))
    return found


def _measure(options: Options) -> Findings:
    size = 400 if options.quick else _PROMPT
    found = Findings()
    curves: list[Curve] = []
    with contextlib.ExitStack() as stack:
        clients = {"tailrace": stack.enter_context(servers.tailrace(options.model, options.threads))}
        try:
            clients["llama-server"] = stack.enter_context(peer_server(options))
        except NotHere as error:
            found.notes.append(f"{error}: nothing to compare with.")
        calls = {name: partial(flood, client, prompt_tokens=size) for name, client in clients.items()}
        runs = in_turns(calls, max(3, options.turns - 2))
        alone = in_turns({name: partial(_alone, client, size=size) for name, client in clients.items()}, 3)
    for name, turns in runs.items():
        bound = _BOUND if name == "tailrace" else None
        calm = [statistics.median(turn.calm) for turn in turns]
        as_long = [statistics.median(turn.undisturbed) for turn in turns]
        worst = [percentile(turn.during, 0.99) for turn in turns]
        what = f"{name}: p99 gap while a prompt of {size} tokens is read ÷ median gap"
        found.figures += [
            figure(f"{what} before it", ratios(worst, calm), bound=bound, at_most=True),
            figure(f"{what} of replies as long without it", ratios(worst, as_long), bound=bound, at_most=True),
            figure(f"{name}: median gap before it", calm, unit="ms"),
            figure(f"{name}: median gap of replies as long without it", as_long, unit="ms"),
            # What the machine itself does to gaps: where it stops its cores for 10 ms now and then, this is the floor.
            figure(f"{name}: p99 gap before it", [percentile(turn.calm, 0.99) for turn in turns], unit="ms"),
            figure(f"{name}: p99 gap while it is read", worst, unit="ms"),
            figure(f"{name}: longest gap", [max(turn.during) for turn in turns], unit="ms"),
            figure(f"{name}: time to the prompt's first token", [turn.seconds for turn in turns], unit="s"),
            figure(f"{name}: the same with nobody else", alone[name], unit="s"),
        ]
        points = sorted(turns[-1].points)
        curves.append(Curve(label=name, x=[point[0] for point in points], y=[point[1] for point in points]))
    found.plots.append(
        Plot(
            title="Latency of the running streams under a prompt flood",
            x="seconds after the long prompt was sent",
            y="gap between tokens, ms",
            curves=curves,
            kind="dots",
            logarithmic=True,
        )
    )
    return found


def _alone(client: BenchClient, turn: int, size: int) -> float:
    """Seconds to the first token of such a prompt while nothing else runs."""
    (timing,) = client.run(Load(streams=1, prompt_tokens=size, output_tokens=2), 200_000 + turn)
    return timing.first - timing.asked


PART = Part("flood", "What do running streams feel of somebody's long prompt?", _measure)

if __name__ == "__main__":
    standalone(PART)
