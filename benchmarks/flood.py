"""Measures the gaps of four running streams: while a prompt of 4,000 tokens is prefilled, and while states move.

For the second figure five conversations of 4,000 tokens come one after the other, with slots for two of them. So the KV
cache grows, old prefixes leave for host memory, and the first one comes back. For each gap beyond the bound it prints
what the engine did in it. ``--shapes`` floods models with each kind of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
from dataclasses import replace
from functools import partial

import msgspec

from benchmarks.harness.benchmark import (
    Benchmark,
    Measurements,
    Options,
    Unavailable,
    add_options,
    read_options,
    run_and_save,
)
from benchmarks.harness.gap_reports import GapReport, notes, reporting_server
from benchmarks.harness.move_figures import BOUND as _BOUND
from benchmarks.harness.move_figures import GAP_BOUND as _GAP_BOUND
from benchmarks.harness.move_figures import move_figures
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import Curve, Figure, Plot, figure
from benchmarks.llama_server import peer_server
from benchmarks.synthetic.shapes import SHAPES
from benchmarks.synthetic.write_model import synthetic
from tailrace.errors import TailraceError
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming, percentile

_STREAMS = 4
_PROMPT = 4000
#: Tokens of every stream before the prompt is sent: enough for a 99th percentile.
_TOKENS_BEFORE = 128
#: Tokens of a reply over which the quiet gaps have one median.
_BLOCK = 32
#: Conversations that come one after the other, and slots for them.
_CONVERSATIONS = 5
_CONVERSATION_SLOTS = 2
#: A small model of each kind of memory: windows, sinks, MLA, recurrent layers with and without attention, experts.
SMALL_SHAPES = (
    "gemma3-small",
    "gpt-oss-small",
    "deepseek2-small",
    "qwen35-small",
    "lfm2-small",
    "granite-hybrid-small",
    "falcon-h1-small",
    "mamba2-small",
    "experts-small",
)


class Flood(msgspec.Struct):
    """One turn. Gaps are in milliseconds, times in seconds after the prompt was sent."""

    gaps_before: list[float]
    gaps_during: list[float]  #: during the prefill
    points: list[tuple[float, float]]  #: (time of the gap's end, gap)
    prefill_seconds: float  #: time to the prompt's first token
    max_reply_tokens: int  #: of the longest reply at that time
    #: gaps at the same positions of the same replies, without the prompt
    gaps_without: list[float] = []
    cached_tokens: int = 0  #: of the last prompt, in the prefix cache
    positions: list[int] = []  #: of ``gaps_during``: the reply's tokens before the gap
    relative: list[float] = []  #: ``gaps_during`` ÷ the median gap at their positions, without the prompt

    def compare(self, quiet: list[StreamTiming]) -> None:
        """Take in the same streams without the prompt. Steps take longer as replies grow, so gaps are compared with
        those of replies of the same length.
        """
        medians: list[float] = []
        gaps = [stream.gaps_ms for stream in quiet]
        for begin in range(0, max(map(len, gaps)), _BLOCK):
            medians.append(statistics.median([gap for each in gaps for gap in each[begin : begin + _BLOCK]]))
        self.gaps_without = [gap for each in gaps for gap in each[_TOKENS_BEFORE:]]
        for position, gap in zip(self.positions, self.gaps_during, strict=True):
            self.relative.append(gap / medians[min(position // _BLOCK, len(medians) - 1)])


def flood(client: BenchClient, turn: int, prompt_tokens: int) -> Flood:
    """Start four streams, then the prompt, and disconnect all when the prompt's reply has ended."""
    running = LoadProfile(streams=_STREAMS, prompt_tokens=32, output_tokens=4000).requests(turn)
    (prompt,) = LoadProfile(streams=1, prompt_tokens=prompt_tokens, output_tokens=2).requests(100_000 + turn)
    # The events of the stream that started last: the role's event and its tokens. So all streams run by then.
    late = msgspec.structs.replace(prompt, start_after=(_STREAMS - 1, _TOKENS_BEFORE + 1))
    found = evaluate(client.exchange([*running, late], until=_STREAMS))
    found.compare(_quiet_streams(client, turn, found))
    return found


def moves(client: BenchClient, turn: int, prompt_tokens: int, *, quiet_tokens: int | None = None) -> Flood:
    """Start four streams, then the conversations one by one, and then the first conversation's next turn.

    The streams are compared with the same ones alone, which are as long, or of ``quiet_tokens`` at most.
    """
    running = LoadProfile(streams=_STREAMS, prompt_tokens=32, output_tokens=4000).requests(turn)
    profile = LoadProfile(streams=_CONVERSATIONS, prompt_tokens=prompt_tokens, output_tokens=2)
    opening = profile.requests(300_000 + turn)
    answer = {"role": "assistant", "content": "It is good."}
    again = [*opening[0].messages, answer, {"role": "user", "content": "Why?"}]
    late = [*opening, msgspec.structs.replace(opening[0], messages=again)]
    # Each follows the one before: the role's event and two tokens. The first one follows the streams.
    after = [(_STREAMS - 1, _TOKENS_BEFORE + 1), *((_STREAMS + index, 3) for index in range(_CONVERSATIONS))]
    late = [msgspec.structs.replace(each, start_after=event) for each, event in zip(late, after, strict=True)]
    timings = client.exchange([*running, *late], until=_STREAMS + _CONVERSATIONS)
    found = evaluate(timings, late=_CONVERSATIONS + 1)
    found.compare(_quiet_streams(client, turn, found, quiet_tokens))
    return found


def _quiet_streams(client: BenchClient, turn: int, found: Flood, most: int | None = None) -> list[StreamTiming]:
    """The same streams alone, as long as they were in ``found``, or of ``most`` tokens."""
    tokens = max(found.max_reply_tokens, 2 * _TOKENS_BEFORE)
    if most is not None:
        tokens = min(tokens, most)
    return client.run(LoadProfile(streams=_STREAMS, prompt_tokens=32, output_tokens=tokens), turn)


def evaluate(timings: list[StreamTiming], late: int = 1) -> Flood:
    """Sort the gaps by time. ``timings`` has the running streams and, last, the ``late`` ones, in order."""
    streams, first, last = timings[:-late], timings[-late], timings[-1]
    all_running = max(stream.token_times[0] for stream in streams)
    tokens = max(sum(moment <= last.first_token_at for moment in stream.token_times) for stream in streams)
    found = Flood([], [], [], last.first_token_seconds, tokens, cached_tokens=last.cached_tokens)
    for stream in streams:
        for position, (before, after) in enumerate(itertools.pairwise(stream.token_times)):
            gap = 1e3 * (after - before)
            if all_running <= before and after <= first.sent_at:
                found.gaps_before.append(gap)
            elif after > first.sent_at and before < last.first_token_at:
                found.gaps_during.append(gap)
                found.positions.append(position)
            found.points.append((after - first.sent_at, gap))
    return found


def _measure(options: Options) -> Measurements:
    size, turns = 400 if options.quick else _PROMPT, _turns(options)
    found = Measurements()
    curves: list[Curve] = []
    reports: list[GapReport] = []
    with contextlib.ExitStack() as stack:
        server = reporting_server(options, _GAP_BOUND, reports)
        clients = {"tailrace": stack.enter_context(server)}
        try:
            clients["llama-server"] = stack.enter_context(peer_server(options))
        except Unavailable as error:
            found.notes.append(f"{error}: nothing to compare with.")
        calls = {name: partial(flood, client, prompt_tokens=size) for name, client in clients.items()}
        runs = run_interleaved(calls, turns)
        single = run_interleaved(
            {name: partial(_single, client, size=size) for name, client in clients.items()}, min(turns, 3)
        )
    for name, done in runs.items():
        bound = _BOUND if name == "tailrace" else None
        before = [statistics.median(turn.gaps_before) for turn in done]
        without = [statistics.median(turn.gaps_without) for turn in done]
        worst = [percentile(turn.gaps_during, 0.99) for turn in done]
        what = f"{name}: p99 gap while a prompt of {size} tokens is read ÷ median gap"
        found.figures += [
            figure(f"{what} before it", paired_ratios(worst, before), bound=bound, is_upper_bound=True),
            figure(
                f"{what} of replies as long without it", paired_ratios(worst, without), bound=bound, is_upper_bound=True
            ),
            _relative_figure(f"{name}: p99 of each gap while a prompt of {size} tokens is read", done, bound),
            figure(f"{name}: median gap before it", before, unit="ms"),
            figure(f"{name}: median gap of replies as long without it", without, unit="ms"),
            # The machine's own stalls set the floor of the other gaps.
            figure(f"{name}: p99 gap before it", [percentile(turn.gaps_before, 0.99) for turn in done], unit="ms"),
            figure(f"{name}: p99 gap while it is read", worst, unit="ms"),
            figure(f"{name}: longest gap", [max(turn.gaps_during) for turn in done], unit="ms"),
            figure(f"{name}: time to the prompt's first token", [turn.prefill_seconds for turn in done], unit="s"),
            figure(f"{name}: the same without other requests", single[name], unit="s"),
        ]
        points = sorted(done[-1].points)
        curves.append(Curve(label=name, x=[point[0] for point in points], y=[point[1] for point in points]))
    found.notes += notes("a long prompt", _GAP_BOUND, reports)
    reports.clear()
    found.figures += _moves_figures(options, size, reports)
    found.notes += notes("conversations that come and leave", _GAP_BOUND, reports)
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


def _moves_figures(options: Options, size: int, reports: list[GapReport]) -> list[Figure]:
    """The figures while states move. Each turn has a server of its own, whose KV cache has yet to grow. ``reports``
    gets those of the servers.
    """
    flags = ("--parallel", str(_STREAMS + _CONVERSATION_SLOTS))
    turns: list[Flood] = []
    for turn in range(_turns(options)):
        with reporting_server(options, _GAP_BOUND, reports, *flags) as client:
            turns.append(moves(client, turn, size))
    what = f"tailrace: while {_CONVERSATIONS} conversations of {size} tokens come and leave"
    ratio, *others = move_figures(what, turns)
    return [ratio, _relative_figure(f"{what}, p99 of each gap", turns, _BOUND), *others]


def _relative_figure(what: str, turns: list[Flood], bound: float | None) -> Figure:
    return figure(
        f"{what} ÷ the median at the same length of replies without",
        [percentile(turn.relative, 0.99) for turn in turns],
        bound=bound,
        is_upper_bound=True,
    )


def _turns(options: Options) -> int:
    """A turn takes half a minute, so there are two fewer than usual where there are many."""
    return min(options.turns, max(3, options.turns - 2))


def _single(client: BenchClient, turn: int, size: int) -> float:
    """Seconds to the first token of such a prompt on an idle server."""
    (timing,) = client.run(LoadProfile(streams=1, prompt_tokens=size, output_tokens=2), 200_000 + turn)
    return timing.first_token_at - timing.sent_at


BENCHMARK = Benchmark("flood", "How much does a long prompt slow running streams?", _measure)


def main() -> None:
    """Flood one model, or one of each of ``--shapes``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=BENCHMARK.question)
    add_options(parser)
    parser.add_argument(
        "--shapes",
        default="",
        help=f"instead of --model: synthetic models, as NAME,NAME; all: {', '.join(SMALL_SHAPES)}",
    )
    parsed = parser.parse_args()
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    names = SMALL_SHAPES if parsed.shapes == "all" else [name for name in parsed.shapes.split(",") if name]
    if unknown := [name for name in names if name not in SHAPES]:
        parser.error(f"there is no synthetic model {unknown[0]}; benchmarks/README.md lists them")
    if not names:
        sys.exit(1 if run_and_save([BENCHMARK], options, parsed.report) else 0)
    failed = 0
    for name in names:
        print(f"\n{name}")
        shape = replace(options, model=synthetic(name, options.model))
        failed += run_and_save([BENCHMARK], shape, parsed.report / name)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
