"""Compares a server whose page is open on the dashboard with one without a page.

The page's requests are sent by a client of the benchmark, as from another machine. Where Chromium is there, and the
page is built, a second figure has the whole browser on the server's own cores: it includes what the browser draws.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import cpu_time, servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.rates import decode_rates, measure, total_rates
from benchmarks.harness.results import figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming

STREAMS = (1, 8)
_TOKENS = 96
_BOUND = 0.98
#: Seconds between two requests of the page (``web/src/dashboard``): the view, its models and its log.
_LIVE_SECONDS, _MODELS_SECONDS, _LOG_SECONDS = 1.0, 2.0, 2.0
#: Seconds for which the first page may load.
_START_SECONDS = 20.0
#: Seconds over which CPU time is counted.
_CPU_SECONDS = 6.0
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def _measure(options: Options) -> Measurements:
    tokens, streams = options.tokens(_TOKENS), options.streams(STREAMS)
    start = functools.partial(servers.tailrace, options.model, options.threads, "--parallel", str(max(streams)))
    browser = next((path for name in _CHROMIUMS if (path := shutil.which(name))), None)
    found = Measurements()
    if cpu_time.available():
        with start() as server:
            values = [_page_cpu(server.port, 1.0 if options.quick else _CPU_SECONDS) for _ in range(options.turns)]
        found.figures.append(
            figure("HTTP process's CPU time in each second of an open page", values, unit="ms", is_upper_bound=True)
        )
    with contextlib.ExitStack() as stack:
        closed, opened = stack.enter_context(start()), stack.enter_context(start())
        sides = {"closed": closed.run, "requests": _with(opened, lambda: _requesting(opened.port))}
        if browser is None or not _has_page(opened.port):
            found.notes.append("No Chromium, or no built page: the figures with a browser are missing.")
        else:
            drawn = stack.enter_context(start())
            sides["browser"] = _with(drawn, lambda: _browsing(browser, drawn.port))
        loads = [LoadProfile(streams=count, prompt_tokens=32, output_tokens=tokens) for count in streams]
        runs = measure(sides, loads, options.turns, same_prompts=True)
    names = {"requests": "page's requests ÷ none", "browser": "browser on the same cores ÷ none"}
    for count in streams:
        shown = f"{count} stream{'s' if count > 1 else ''}"
        for side, name in names.items():
            if side in runs:
                bound = _BOUND if side == "requests" else None
                values = paired_ratios(decode_rates(runs[side][count]), decode_rates(runs["closed"][count]))
                found.figures.append(figure(f"{name}, {shown}, decode", values, bound=bound))
                values = paired_ratios(total_rates(runs[side][count]), total_rates(runs["closed"][count]))
                found.figures.append(figure(f"{name}, {shown}, whole time", values, bound=bound))
    found.notes.append("Each side has a server of its own; the others are idle while one is measured.")
    return found


def _page_cpu(port: int, seconds: float) -> float:
    """Milliseconds of CPU time that the HTTP process needs in each second for a page on an idle server."""
    (http_process,) = cpu_time.descendants("tailrace.server.process")

    def spent() -> float:
        before = cpu_time.seconds([http_process])
        time.sleep(seconds)
        return cpu_time.seconds([http_process]) - before

    without = spent()
    with _requesting(port):
        return 1e3 * (spent() - without) / seconds


def _with(
    client: BenchClient, page: Callable[[], contextlib.AbstractContextManager[None]]
) -> Callable[[LoadProfile, int], list[StreamTiming]]:
    """The load on this server while its page is open."""

    def run(load: LoadProfile, turn: int) -> list[StreamTiming]:
        with page():
            return client.run(load, turn)

    return run


def _has_page(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"accept": "text/html"})
    return b"<script" in connection.getresponse().read()


@contextlib.contextmanager
def _requesting(port: int) -> Iterator[None]:
    """Send the page's requests, from a thread. Raises an error of the last one."""
    stop = threading.Event()
    begun = threading.Event()
    errors: list[Exception] = []

    def look() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            after, last = 0.0, 0
            _get(connection, "/stats/history")
            due = {"live": 0.0, "models": 0.0, "log": 0.0}
            while not stop.is_set():
                now = time.monotonic()
                if now >= due["live"]:
                    times = _get(connection, f"/stats/live?after={after}")["history"]["time"]
                    after = times[-1] if times else after
                    due["live"] = now + _LIVE_SECONDS
                if now >= due["models"]:
                    _get(connection, "/stats/models")
                    due["models"] = now + _MODELS_SECONDS
                if now >= due["log"]:
                    last = _get(connection, f"/stats/log?after={last}")["last"]
                    due["log"] = now + _LOG_SECONDS
                begun.set()
                stop.wait(max(0.0, min(due.values()) - time.monotonic()))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            errors.append(error)
            begun.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    begun.wait(_START_SECONDS)
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def _get(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    response = connection.getresponse()
    body = json.loads(response.read())
    if response.status != 200:
        raise ValueError(f"{path}: {body}")
    return body


@contextlib.contextmanager
def _browsing(browser: str, port: int) -> Iterator[None]:
    """Have the dashboard open in a browser without a window, which draws it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        command = [browser, "--headless=new", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
        command += ["--remote-debugging-port=0", "--window-size=1280,900"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{port}/#/machine"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(3.0)  # Its start isn't measured.
            yield
        finally:
            process.terminate()
            process.wait(30)


BENCHMARK = Benchmark("page_cost", "What does an open dashboard cost?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
