"""Compares responses that are stored in PostgreSQL, stored in SQLite, and not stored.

The scripted backend answers at once, so that the figures are the cost of storing. The database is that of the
environment variable ``TAILRACE_RESPONSES_STORE``; it gets tables of its own, and what is stored there stays. Its
process's own CPU time isn't counted: it may be on another machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.paired_runs import run_interleaved
from benchmarks.harness.results import figure

_ADDRESS = "TAILRACE_RESPONSES_STORE"
_RESPONSES = 150
_REPLY = "a reply of some words, as they are."


@dataclass(frozen=True)
class _Run:
    """Medians of one run's responses, in seconds."""

    first: float  #: until the first text
    total: float  #: until the end
    cpu: float  #: of the HTTP process, mean


def _measure(options: Options) -> Measurements:
    address = os.environ.get(_ADDRESS)
    if address is None or not cpu_time.available():
        raise Unavailable(f"it needs Linux, and a database in {_ADDRESS} (postgresql://...)")
    count = 20 if options.quick else _RESPONSES
    with contextlib.ExitStack() as stack:
        sqlite = stack.enter_context(servers.tailrace(None, 1))
        (sqlite_http,) = cpu_time.descendants("tailrace.server.process")
        postgres = stack.enter_context(servers.tailrace(None, 1, responses_store=address))
        (postgres_http,) = set(cpu_time.descendants("tailrace.server.process")) - {sqlite_http}

        def side(port: int, pid: int, *, store: bool) -> Callable[[int], _Run]:
            return lambda turn: _run(port, pid, count, store=store)

        sides = {
            "PostgreSQL": side(postgres.port, postgres_http, store=True),
            "not stored": side(sqlite.port, sqlite_http, store=False),
            "SQLite": side(sqlite.port, sqlite_http, store=True),
        }
        runs = run_interleaved(sides, options.turns)
    found = Measurements()
    for name in ("SQLite", "PostgreSQL"):
        pairs = list(zip(runs[name], runs["not stored"], strict=True))
        for what, read in _FIGURES.items():
            values = [1e3 * (read(stored) - read(none)) for stored, none in pairs]
            found.figures.append(figure(f"{name} − not stored, {what}", values, unit="ms"))
    for what, read in _FIGURES.items():
        found.figures.append(figure(f"not stored, {what}", [1e3 * read(run) for run in runs["not stored"]], unit="ms"))
    found.notes.append(f"{count} responses one after another in each run, streamed, of {len(_REPLY)} tokens.")
    return found


_FIGURES: dict[str, Callable[[_Run], float]] = {
    "time to the first text": lambda run: run.first,
    "time to the end": lambda run: run.total,
    "HTTP process's CPU time of a response": lambda run: run.cpu,
}


def _run(port: int, pid: int, count: int, *, store: bool) -> _Run:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"input": f"<say>{_REPLY}</say>", "stream": True, "store": store})
    firsts, totals = [], []
    cpu_before = cpu_time.seconds([pid])
    for _ in range(count):
        begun = time.perf_counter()
        connection.request("POST", "/v1/responses", body, {"content-type": "application/json"})
        response = connection.getresponse()
        first = 0.0
        for line in response:
            if not first and line.startswith(b"event: response.output_text.delta"):
                first = time.perf_counter() - begun
        firsts.append(first)
        totals.append(time.perf_counter() - begun)
    cpu = (cpu_time.seconds([pid]) - cpu_before) / count
    connection.close()
    return _Run(statistics.median(firsts), statistics.median(totals), cpu)


BENCHMARK = Benchmark("stored_responses", "What does it cost to store a response?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
