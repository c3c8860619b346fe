"""Runs a mixed load for a long time: does memory grow, and is anything lost?

``python -m benchmarks soak --minutes 30``. All dialects, schemas, tools, embeddings, clients that leave or read slowly,
and requests that are refused. It isn't part of the report.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, add_options, read_options, run_and_save
from benchmarks.harness.process_watch import ProcessWatch, Sample, take_samples
from benchmarks.harness.results import Curve, Figure, Plot, figure
from benchmarks.harness.soak_clients import SILENCE_SECONDS, SoakClient
from tailrace.errors import TailraceError

_CLIENTS = 12
#: Client addresses: the server is fair between them.
_ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
#: Host memory of the prefix cache. It is full within the warm-up, and a leak is a larger part of the engine's memory.
_KEEP_MB = "256"
#: Memory at the end, over that after the warm-up.
_MAX_GROWTH = 1.02
#: How long a server may take to become idle when all clients have gone.
_IDLE_SECONDS = 60.0
_MEGABYTE = 1024**2


def growth(samples: Sequence[Sample]) -> float:
    """The median of the last tenth of one process's memory, over that of the tenth after the first one."""
    memory = [float(sample.memory) for sample in samples]
    tenth = max(1, len(memory) // 10)
    return statistics.median(memory[-tenth:]) / statistics.median(memory[tenth : 2 * tenth] or memory[:1])


def _measure(options: Options, minutes: float) -> Measurements:
    period = min(5.0, max(0.5, 0.6 * minutes))
    with servers.tailrace(options.model, options.threads, speculate="lookup", keep_mb=_KEEP_MB) as server:
        SoakClient(server.port, server.model, _CLIENTS, _ADDRESSES[0]).warm_up()
        _wait_until_idle(server.port)
        idle_descriptors = _descriptors(take_samples())
        clients = [
            SoakClient(server.port, server.model, number, _ADDRESSES[number % len(_ADDRESSES)])
            for number in range(_CLIENTS)
        ]
        begun = time.monotonic()
        with ProcessWatch(period) as watch:
            for client in clients:
                client.start()
            time.sleep(60 * minutes)
        for client in clients:
            client.stop()
        deadline = time.monotonic() + 2 * SILENCE_SECONDS
        stuck = sum(not client.join(max(0.0, deadline - time.monotonic())) for client in clients)
        seconds = time.monotonic() - begun
        running, waiting = _wait_until_idle(server.port)
        after = _descriptors(take_samples())
    ended = sum((client.tally.ended for client in clients), Counter[str]())
    faults = [text for client in clients for text in client.tally.faults]
    by_process: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in watch.samples:
        by_process[sample.role, sample.pid].append(sample)
    # Workers that live for one text or grammar aren't processes of the server's whole life.
    lasting = {key: found for key, found in by_process.items() if key[0] in idle_descriptors}
    restarts = sum(Counter(role for role, _ in lasting).values()) - len(idle_descriptors)
    figures = [
        *_memory_figures(lasting),
        *(
            _none(f"{role}: descriptors more than before", max(0, after.get(role, 0) - count))
            for role, count in idle_descriptors.items()
        ),
        _none("hung requests", sum(client.tally.hung for client in clients) + stuck),
        _none("requests without exactly one proper end", sum(client.tally.wrong_ends for client in clients)),
        _none("running and waiting requests at the end", running + waiting),
        _none("restarts", restarts),
        figure("requests", [sum(ended.values()) / seconds], unit="a second"),
    ]
    notes = [f"{sum(ended.values())} requests in {minutes:g} minutes of {_CLIENTS} clients: {dict(ended)}."]
    notes += [f"fault: {text}" for text in faults[:20]]
    plot = Plot(
        title="Memory of the processes under a mixed load",
        x="seconds",
        y="memory, MB",
        curves=[
            Curve(label=role, x=[one.seconds for one in found], y=[one.memory / _MEGABYTE for one in found])
            for (role, _), found in lasting.items()
        ],
    )
    return Measurements(figures=figures, plots=[plot], notes=notes)


def _memory_figures(processes: dict[tuple[str, int], list[Sample]]) -> list[Figure]:
    figures: list[Figure] = []
    for (role, _), samples in processes.items():
        if role == "supervisor":
            continue
        memory = [sample.memory / _MEGABYTE for sample in samples]
        figures.append(figure(f"{role}: memory", memory, unit="MB"))
        figures.append(
            figure(
                f"{role}: memory of the last tenth ÷ after the first", [growth(samples)], bound=_MAX_GROWTH,
                is_upper_bound=True,
            )
        )  # fmt: skip
    return figures


def _none(label: str, count: int) -> Figure:
    return figure(label, [float(count)], unit="", bound=0, is_upper_bound=True)


def _descriptors(samples: Sequence[Sample]) -> dict[str, int]:
    """Open descriptors of each of the server's lasting processes."""
    return {one.role: one.descriptors for one in samples if one.role in ("supervisor", "HTTP process", "engine")}


def _wait_until_idle(port: int) -> tuple[int, int]:
    """Running and waiting requests, when both are 0 or ``_IDLE_SECONDS`` have gone."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        counts = [_sum_of(lines, f"vllm:num_requests_{state}{{") for state in ("running", "waiting")]
        if not any(counts) or time.monotonic() > deadline:
            return counts[0], counts[1]
        time.sleep(1.0)


def _sum_of(lines: Sequence[str], start: str) -> int:
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 1 when it failed. A missed bound is a result, not a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    add_options(parser)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load [30]")
    parsed = parser.parse_args(arguments)
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    benchmark = Benchmark(
        "soak",
        "Does memory grow under a long mixed load, and is anything lost?",
        partial(_measure, minutes=0.5 if parsed.quick else parsed.minutes),
    )
    return 1 if run_and_save([benchmark], options, parsed.report) else 0


if __name__ == "__main__":
    sys.exit(main())
