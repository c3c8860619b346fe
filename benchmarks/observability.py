"""Compares a server with logs, scraped metrics and keys with one that has none of them.

Many short replies put the cost of a request into the figure; long ones that of a token.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.rates import decode_rates, measure, total_rates
from benchmarks.harness.results import figure
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming

STREAMS = (1, 8)
#: Replies of every side in each turn.
PAIRS = 3
_TOKENS = 64
#: A turn of requests that are over soon.
_SHORT_TOKENS = 4
_BOUND = 0.99
_SCRAPE_SECONDS = 1.0


def _measure(options: Options) -> Measurements:
    tokens, streams = options.tokens(_TOKENS), options.streams(STREAMS)
    start = functools.partial(servers.tailrace, options.model, options.threads, "--parallel", str(max(streams)))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "keys.json"
        key = _key(file)
        off = stack.enter_context(start(log_level="error", access_log="false"))
        on = stack.enter_context(
            start(key=key, keys_file=str(file), log_level="info", log_format="json", access_log="true")
        )

        def scraped(load: LoadProfile, turn: int) -> list[StreamTiming]:
            with _scraping(on.port, key):
                return on.run(load, turn)

        sides = {"on": scraped, "off": off.run}
        turns = PAIRS * options.turns
        long = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        runs = measure(sides, long, turns, same_prompts=True)
        short = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=_SHORT_TOKENS) for count in streams]
        requests = measure(sides, short, turns, same_prompts=True)
    found = Measurements()
    for count in streams:
        shown = f"{count} stream{'s' if count > 1 else ''}"
        values = paired_ratios(decode_rates(runs["on"][count]), decode_rates(runs["off"][count]))
        found.figures.append(figure(f"on ÷ off, {shown}, decode", values, bound=_BOUND))
        values = paired_ratios(total_rates(runs["on"][count]), total_rates(runs["off"][count]))
        found.figures.append(figure(f"on ÷ off, {shown}, whole time", values, bound=_BOUND))
        values = paired_ratios(total_rates(requests["on"][count]), total_rates(requests["off"][count]))
        found.figures.append(figure(f"on ÷ off, {shown}, replies of {_SHORT_TOKENS} tokens", values))
    found.notes.append(
        "on: a key with limits, a JSON line for each request, and /metrics read once a second; off: no key, no lines, "
        "nothing reads /metrics. Both servers are idle while the other one is measured."
    )
    return found


def _key(file: Path) -> str:
    """A key with a limit that isn't reached, in a new file."""
    program = str(Path(sys.executable).with_name("tailrace"))
    limits = ["--concurrency", "1000", "--tokens-per-minute", "1000000000"]
    done = subprocess.run(
        [program, "keys", "create", "benchmark", "--file", str(file), *limits],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@contextlib.contextmanager
def _scraping(port: int, key: str) -> Iterator[None]:
    """Read the metrics as Prometheus does, from a thread. Raises an error of the last scrape."""
    stop = threading.Event()
    errors: list[Exception] = []
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {key}"})

    def scrape() -> None:
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    response.read()
            except OSError as error:
                errors.append(error)
            if errors or stop.wait(_SCRAPE_SECONDS):
                return

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


BENCHMARK = Benchmark("observability", "What do logs, metrics and keys cost?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
