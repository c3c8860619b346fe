"""Compares one replica behind a cluster's ingress with the same server alone, and finds the ingress's capacity.

With a real model: throughput and first tokens. With the scripted backend: the bytes of each dialect, and the CPU time
of each process a token and a request, with 1 to 4 replicas. No Ray takes part: no request passes through it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.front_end import script
from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.event_counter import measure_streams
from benchmarks.harness.ingress import SECRET, ingress
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.rates import measure, quartile_step_rates, total_rates
from benchmarks.harness.request_counter import measure_requests
from benchmarks.harness.results import Curve, Figure, Plot, figure
from benchmarks.harness.wire_bytes import REQUESTS, comparable, response
from tailrace.loadtest.load_profile import LoadProfile

STREAMS = (1, 8)
REPLICAS = (1, 2, 4)
#: Of throughput, and of the milliseconds by which a first token is later.
BOUND, BOUND_MS = 0.97, 5.0
#: Short replies of each side in each turn: many pairs follow a machine whose speed changes.
_PAIRS = 3
_TOKENS = 96
#: Streams of each replica, and seconds of a step of the scripted backend.
_STREAMS_EACH, _STEP_SECONDS = 32, 0.005
_CONNECTIONS = 16
_PROCESSES = ("ingress", "HTTP processes", "engines", "client")


def _measure(options: Options) -> Measurements:
    found = Measurements()
    _compare(options, found)
    _compare_bytes(found)
    if cpu_time.available():
        _measure_tokens(options, found)
        _measure_requests(options, found)
    else:
        found.notes.append("CPU time is read from Linux's /proc: its figures are missing.")
    return found


def _compare(options: Options, found: Measurements) -> None:
    """Throughput and first tokens with a real model."""
    streams, tokens = options.streams(STREAMS), options.tokens(_TOKENS)
    wide = ("--parallel", str(max(streams)))
    with (
        servers.tailrace(options.model, options.threads, *wide, cluster_secret=SECRET) as direct,
        ingress([direct.port]) as through,
    ):
        loads = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        sides = {"ingress": through.client.run, "direct": direct.run}
        runs = measure(sides, loads, _PAIRS * options.turns, same_prompts=True)
    for count in streams:
        shown = f"{count} stream{'s' if count > 1 else ''}"
        relayed, alone = runs["ingress"][count], runs["direct"][count]
        ratios = paired_ratios(total_rates(relayed), total_rates(alone))
        found.figures.append(figure(f"ingress ÷ direct, {shown}, throughput", ratios, bound=BOUND))
        # Other programs on the machine lengthen the longer gaps.
        steps = paired_ratios(quartile_step_rates(relayed), quartile_step_rates(alone))
        found.figures.append(figure(f"the same by the gaps' lower quartiles, {shown}", steps))
        later = [one.ttft_median - other.ttft_median for one, other in zip(relayed, alone, strict=True)]
        label = f"first token later by, {shown}"
        found.figures.append(figure(label, later, unit="ms", bound=BOUND_MS, is_upper_bound=True))


def _compare_bytes(found: Measurements) -> None:
    """The bytes that a client gets, with ids, times and lengths masked."""
    with servers.tailrace(None, 1, cluster_secret=SECRET) as direct, ingress([direct.port]) as through:
        differ = [
            name
            for name in REQUESTS
            if comparable(response(direct.port, name, direct.model))
            != comparable(response(through.client.port, name, direct.model))
        ]
    same = len(REQUESTS) - len(differ)
    all_of_them = len(REQUESTS)
    found.figures.append(figure("responses with the same bytes", [same], unit=f"of {all_of_them}", bound=all_of_them))
    if differ:
        found.notes.append(f"Other bytes through the ingress: {', '.join(differ)}.")


@contextlib.contextmanager
def _cluster(replicas: int, streams: int, step_seconds: float) -> Iterator[tuple[int, list[list[int]]]]:
    """Replicas with the scripted backend, and an ingress in front of them. Gives its port and the processes' ids."""
    # Large prefill chunks: else the first streams would end before the last ones begin.
    wide = ("--ctx", "16384", "--prefill-chunk", "65536", "--parallel", str(streams))
    start = functools.partial(servers.tailrace, None, 1, *wide, cluster_secret=SECRET, step_ms="1000")
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(start(fake_step_seconds=str(step_seconds))).port for _ in range(replicas)]
        running = stack.enter_context(ingress(ports))
        https = cpu_time.descendants("tailrace.server.process")
        engines = cpu_time.descendants("tailrace.engine.process")
        yield running.client.port, [[running.pid], https, engines]


def _measure_tokens(options: Options, found: Measurements) -> None:
    """Tokens a second, and the CPU time of a token, by the number of replicas."""
    seconds = 1.0 if options.quick else 3.0
    tokens = int((seconds + 12) / _STEP_SECONDS) + 200  # The last streams may begin long after the first ones.
    rates: list[float] = []
    for count in options.streams(REPLICAS):
        # Slots for all streams at each: a stream that waits for a slot would begin after the first ones have ended.
        with _cluster(count, count * _STREAMS_EACH, _STEP_SECONDS) as (port, groups):
            pids = [pid for group in groups for pid in group]
            runs = [
                measure_streams(port, count * _STREAMS_EACH, script(tokens), tokens, pids, seconds)
                for _ in range(1 if options.quick else min(3, options.turns))
            ]
        shown = _shown(count, _STREAMS_EACH, "stream")
        rates.append(sorted(run.rate for run in runs)[len(runs) // 2])
        found.figures.append(figure(f"{shown}: tokens a second", [run.rate for run in runs], unit="tok/s"))
        _add_parts(found, shown, "token", groups, [(run.process_cpu, run.client_cpu) for run in runs])
        capacity = [1 / run.process_cpu[0] for run in runs]
        found.figures.append(figure(f"{shown}: tokens a second of the ingress's CPU time", capacity, unit="tok/s"))
    counts = list(map(float, options.streams(REPLICAS)))
    found.plots.append(
        Plot(
            title="Tokens through one ingress",
            x="replicas",
            y="tokens a second",
            curves=[Curve(label=f"{_STREAMS_EACH} streams a replica", x=counts, y=rates)],
        )
    )


def _measure_requests(options: Options, found: Measurements) -> None:
    """Requests of one token each a second, and the CPU time of a request, by the number of replicas."""
    seconds = 1.0 if options.quick else 3.0
    for count in options.streams(REPLICAS):
        with _cluster(count, _CONNECTIONS, 0.0) as (port, groups):
            pids = [pid for group in groups for pid in group]
            runs = [
                measure_requests(port, _CONNECTIONS, _request(), pids, seconds)
                for _ in range(1 if options.quick else min(3, options.turns))
            ]
        shown = _shown(count, _CONNECTIONS // count, "connection")
        found.figures.append(figure(f"{shown}: requests a second", [run.rate for run in runs], unit="req/s"))
        _add_parts(found, shown, "request", groups, [(run.process_cpu, run.client_cpu) for run in runs])


def _request() -> bytes:
    body = msgspec.json.encode({"messages": [{"role": "user", "content": script(1)}], "max_tokens": 1})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _shown(replicas: int, each: int, what: str) -> str:
    return f"{replicas} replica{'s' if replicas > 1 else ''}, {each} {what}s each"


def _add_parts(
    found: Measurements,
    shown: str,
    unit: str,
    groups: Sequence[Sequence[int]],
    runs: Sequence[tuple[Sequence[float], float]],
) -> None:
    """A figure for each kind of process: its CPU time of one ``unit``."""
    begin = 0
    for name, size in zip(_PROCESSES, [*map(len, groups), 0], strict=True):
        values = [1e6 * (sum(cpu[begin : begin + size]) if size else client) for cpu, client in runs]
        begin += size
        found.figures.append(_cpu(f"{shown}: CPU a {unit}, {name}", values))


def _cpu(label: str, values: Sequence[float]) -> Figure:
    return figure(label, values, unit="µs", is_upper_bound=True)


BENCHMARK = Benchmark("cluster", "What does a cluster's ingress cost, and how much can it carry?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
