"""Measures how long one caller waits for its first token while another caller has 200 requests running and waiting.

Two callers are two client addresses of the loopback network. The patient caller sends a short chat every two seconds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import msgspec

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.paired_runs import run_interleaved
from benchmarks.harness.results import Curve, Plot, figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import percentile
from tailrace.loadtest.stream_receiver import RawStream

#: Where the greedy caller connects from; the other one has the default address.
_GREEDY_ADDRESS = "127.0.0.2"
_GREEDY_REQUESTS = 200
_GREEDY_TOKENS = 500
_PROMPT = 64
_REPLY = 16
_PERIOD_SECONDS = 2.0
#: Requests of the patient caller in a turn.
_REQUESTS = 15
_BOUND = 2.0


class Turn(msgspec.Struct):
    """One turn. ``waits``: the patient caller's times to the first token, in milliseconds. ``greedy_rate``: tokens a
    second of the greedy caller meanwhile; 0 without it.
    """

    waits: list[float]
    greedy_rate: float = 0.0


def ask_periodically(client: BenchClient, turn: int, count: int, period: float) -> list[float]:
    """Milliseconds to the first token of ``count`` requests, one every ``period`` seconds."""
    waits: list[float] = []
    begun = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, begun + number * period - time.perf_counter()))
        load = LoadProfile(streams=1, prompt_tokens=_PROMPT, output_tokens=_REPLY)
        (timing,) = client.run(load, 1000 * (turn + 1) + number)
        waits.append(1e3 * timing.first_token_seconds)
    return waits


@contextlib.contextmanager
def greedy_load(client: BenchClient, turn: int, requests: int, tokens: int) -> Iterator[list[RawStream]]:
    """Send so many requests at once, and keep them until the block ends. It begins when replies run.

    Raises TimeoutError where no reply begins.
    """
    load = LoadProfile(streams=requests, prompt_tokens=_PROMPT, output_tokens=tokens)
    streams = client.streams(load.requests(100_000 + turn))
    for stream in streams:
        stream.counts_events = True
    receiver = threading.Thread(target=client.send_all, args=(streams,), daemon=True)
    receiver.start()
    try:
        deadline = time.monotonic() + 60
        while not any(stream.events > 20 for stream in streams):
            if time.monotonic() > deadline:
                raise TimeoutError("no reply of the greedy caller has begun")
            time.sleep(0.05)
        yield streams
    finally:
        for stream in streams:
            if stream.sock is not None and not stream.completed:
                with contextlib.suppress(OSError):  # The server has just closed it.
                    stream.sock.shutdown(socket.SHUT_RDWR)
        receiver.join()


def beside_greedy(patient: BenchClient, greedy: BenchClient, turn: int, options: Options) -> Turn:
    """One turn of the patient caller beside the greedy one."""
    requests, tokens, count, period = _sizes(options)
    with greedy_load(greedy, turn, requests, tokens) as streams:
        begun, before = time.perf_counter(), sum(stream.events for stream in streams)
        waits = ask_periodically(patient, turn, count, period)
        rate = (sum(stream.events for stream in streams) - before) / (time.perf_counter() - begun)
    return Turn(waits, rate)


def _sizes(options: Options) -> tuple[int, int, int, float]:
    """The greedy caller's requests and tokens of each; the patient one's requests and their period in seconds."""
    if options.quick:
        return 20, 200, 3, 0.5
    return _GREEDY_REQUESTS, _GREEDY_TOKENS, _REQUESTS, _PERIOD_SECONDS


def _measure(options: Options) -> Measurements:
    _, _, count, period = _sizes(options)
    with servers.tailrace(options.model, options.threads, queue_requests="256") as patient:
        try:
            greedy = BenchClient(f"http://127.0.0.1:{patient.port}", source=_GREEDY_ADDRESS)
        except OSError as error:
            raise Unavailable(f"this machine has no second loopback address: {error}") from error
        runs = run_interleaved(
            {
                "alone": lambda turn: Turn(ask_periodically(patient, turn, count, period)),
                "beside": lambda turn: beside_greedy(patient, greedy, turn, options),
            },
            options.turns,
        )
    waits = {name: [wait for turn in turns for wait in turn.waits] for name, turns in runs.items()}
    p99 = {name: percentile(values, 0.99) for name, values in waits.items()}
    median = {name: percentile(values, 0.5) for name, values in waits.items()}
    return Measurements(
        figures=[
            figure(
                "p99 of the time to the first token, beside the greedy caller ÷ alone",
                [p99["beside"] / p99["alone"]],
                bound=_BOUND,
                is_upper_bound=True,
            ),
            figure("the same, median", [median["beside"] / median["alone"]]),
            *(figure(f"{name}: p99 of the time to the first token", [p99[name]], unit="ms") for name in p99),
            *(figure(f"{name}: median", [median[name]], unit="ms") for name in median),
            figure("greedy caller's rate", [turn.greedy_rate for turn in runs["beside"]], unit="tokens/s"),
        ],
        plots=[
            Plot(
                title="Time to the first token of a caller beside a greedy one",
                x="request, in order of its wait",
                y="time to first token, ms",
                curves=[
                    Curve(label=name, x=list(range(len(values))), y=sorted(values)) for name, values in waits.items()
                ],
                logarithmic=True,
            )
        ],
        notes=[
            f"{len(waits['alone'])} requests of {_PROMPT} prompt tokens, one every {period:g} seconds; "
            f"the greedy caller keeps up to {_sizes(options)[0]} requests of {_sizes(options)[1]} tokens."
        ],
    )


BENCHMARK = Benchmark("fairness", "How long does a caller wait beside a greedy one?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
