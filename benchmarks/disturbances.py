"""Measures the gaps of four running streams while other requests come that are no plain prompts.

Each disturbance has its own run: four streams begin, then its requests are sent, and the gaps from there to their ends
count. For each gap beyond the bound it prints what the engine did in it.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.gap_reports import GapReport, notes, reporting_server
from benchmarks.harness.results import figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import percentile

_STREAMS = 4
_TOKENS = 500
#: No gap may be longer than this, in milliseconds.
_BOUND = 100
#: Seconds from the streams' start to the disturbance: all have their first tokens by then.
_LEAD_SECONDS = 1.0
_SLOTS = _STREAMS + 4

#: Sends its requests to the server at a port, whose ``turn`` makes their texts new, and returns at their end.
Disturbance = Callable[[int, int, int], None]


def _post(port: int, route: str, body: dict[str, Any], timeout: float = 120.0) -> None:
    """Ask, and read the whole response, of whatever status. A timeout closes the connection."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{route}", data, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            response.read()
    except urllib.error.HTTPError as error:
        error.read()
    except TimeoutError:
        return


def _text(turn: int, tokens: int, stream: int = 0) -> str:
    return LoadProfile(streams=stream + 1, prompt_tokens=tokens, output_tokens=1).prompts(turn)[stream]


def _chat(port: int, turn: int, text: str, timeout: float = 120.0, **fields: object) -> None:
    messages = [{"role": "user", "content": f"{turn}: {text}"}]
    _post(port, "/v1/chat/completions", {"messages": messages, "max_tokens": 8, **fields}, timeout)


def _several_prompts(port: int, turn: int, size: int) -> None:
    asked = [threading.Thread(target=_chat, args=(port, turn, _text(turn, size // 4, stream))) for stream in range(4)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()


def _cancelled_prompt(port: int, turn: int, size: int) -> None:
    _chat(port, turn, _text(turn, size), timeout=1.0)
    time.sleep(0.5)


def _tools(port: int, turn: int, size: int) -> None:
    """A hundred functions, with schemas that no grammar was compiled for."""
    count = max(4, size // 40)
    functions = [
        {
            "name": f"function_{turn}_{number}",
            "parameters": {
                "type": "object",
                "properties": {
                    f"field_{place}": {"type": "string", "enum": [f"{turn}-{number}-{place}-{e}" for e in range(5)]}
                    for place in range(6)
                },
                "required": ["field_0"],
            },
        }
        for number in range(count)
    ]
    tools = [{"type": "function", "function": function} for function in functions]
    _chat(port, turn, "Which one?", tools=tools, tool_choice="required")


def _schema(port: int, turn: int, size: int) -> None:
    """A large schema, whose grammar is compiled and followed."""
    properties = {
        f"field_{place}": {"type": "array", "items": {"type": "string", "pattern": f"^[a-z{place}]{{2,40}}$"}}
        for place in range(max(4, size // 100))
    }
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    form = {"type": "json_schema", "json_schema": {"name": f"schema_{turn}", "schema": schema, "strict": True}}
    _chat(port, turn, "Fill it in.", response_format=form)


def _embeddings(port: int, turn: int, size: int) -> None:
    texts = [_text(turn + index, max(8, size // 32)) for index in range(32)]
    _post(port, "/v1/embeddings", {"input": texts})


def _old_turn(port: int, turn: int, size: int) -> None:
    """A long conversation leaves its slot for others, and comes back."""
    messages = [{"role": "user", "content": f"{turn}: {_text(turn, 19 * size // 10)}"}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": 8}
    _post(port, "/v1/chat/completions", body)
    for other in range(_SLOTS - _STREAMS):
        _chat(port, turn, _text(turn, 200, other))
    messages += [{"role": "assistant", "content": "It is good."}, {"role": "user", "content": "Why?"}]
    _post(port, "/v1/chat/completions", body)


_DISTURBANCES: dict[str, Disturbance] = {
    "four prompts at once": _several_prompts,
    "a long prompt that is cancelled": _cancelled_prompt,
    "a hundred tools": _tools,
    "a large schema": _schema,
    "32 texts to embed": _embeddings,
    "a conversation that leaves and comes back": _old_turn,
}


def disturbed_gaps(client: BenchClient, disturb: Callable[[], None]) -> tuple[list[float], list[float]]:
    """The streams' gaps before the disturbance, and from its begin to its end. In milliseconds."""
    times = [0.0, 0.0]

    def run() -> None:
        time.sleep(_LEAD_SECONDS)
        times[0] = time.perf_counter()
        disturb()
        times[1] = time.perf_counter()

    thread = threading.Thread(target=run)
    thread.start()
    timings = client.run(LoadProfile(streams=_STREAMS, prompt_tokens=32, output_tokens=_TOKENS), 1)
    thread.join()
    before: list[float] = []
    during: list[float] = []
    for stream in timings:
        for moment, gap in zip(stream.token_times[1:], stream.gaps_ms, strict=True):
            if moment < times[0]:
                before.append(gap)
            elif moment - gap / 1e3 < times[1]:
                during.append(gap)
    return before, during


def _measure(options: Options) -> Measurements:
    size = 400 if options.quick else 4000
    found = Measurements()
    for name, disturb in _DISTURBANCES.items():
        reports: list[GapReport] = []
        longest: list[float] = []
        worst: list[float] = []
        with reporting_server(options, _BOUND, reports, "--parallel", str(_SLOTS)) as client:
            for turn in range(options.turns):
                _, during = disturbed_gaps(client, partial(disturb, client.port, turn, size))
                longest.append(max(during, default=0.0))
                worst.append(percentile(during, 0.99) if during else 0.0)
        found.figures += [
            figure(f"{name}: longest gap", longest, unit="ms", bound=_BOUND, is_upper_bound=True),
            figure(f"{name}: p99 gap", worst, unit="ms"),
        ]
        found.notes += notes(name, _BOUND, reports)
    return found


BENCHMARK = Benchmark("disturbances", "How long do running streams wait for requests of other kinds?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
