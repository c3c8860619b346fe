"""Compares tailrace with llama-server of the same llama.cpp generation, in pairs, with the same model file."""

from __future__ import annotations

import contextlib
from functools import partial

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.rates import PREFILL_PROMPT, StatsBySide, decode_rates, measure, prefill_rate, rate_curve
from benchmarks.harness.results import Figure, Plot, figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile

STREAMS = (1, 4, 8)
#: Eight slots, each with a context for the longest prompt of any benchmark.
PEER_FLAGS = ("-np", "8", "-c", "65536")
_BOUNDS = {1: 1.03, 4: 1.08, 8: 1.08}


def _measure(options: Options) -> Measurements:
    with contextlib.ExitStack() as stack:
        tailrace = stack.enter_context(servers.tailrace(options.model, options.threads, "--kernels", options.kernels))
        peer = stack.enter_context(peer_server(options))
        found = compare(tailrace, peer, options, bounds=_BOUNDS)
    found.notes.append(f"llama-server {' '.join(PEER_FLAGS)} and its defaults: {servers.version_of('llama-server')}")
    return found


def peer_server(options: Options) -> contextlib.AbstractContextManager[BenchClient]:
    """llama-server with as many slots as tailrace has. Raises Unavailable."""
    if not servers.has_llama_server():
        raise Unavailable("there is no llama-server on the path")
    return servers.llama_server(options.model, options.threads, *PEER_FLAGS)


def compare(
    tailrace: BenchClient,
    peer: BenchClient,
    options: Options,
    *,
    bounds: dict[int, float],
    prefill_bound: float | None = None,
    name: str = "tailrace",
) -> Measurements:
    """Compare decoding at 1, 4 and 8 streams, and prefill, interleaved."""
    tokens = options.tokens(128)
    loads = [LoadProfile(streams=n, prompt_tokens=32, output_tokens=tokens) for n in options.streams(STREAMS)]
    runs = measure({name: tailrace.run, "llama-server": peer.run}, loads, options.turns)
    found = Measurements(figures=_decode_figures(runs, name, bounds))
    sides = {name: tailrace, "llama-server": peer}
    reads = run_interleaved({side: partial(prefill_rate, client) for side, client in sides.items()}, options.turns)
    found.figures.append(
        figure(
            f"{name} ÷ llama-server, reading a prompt of {PREFILL_PROMPT} tokens",
            paired_ratios(reads[name], reads["llama-server"]),
            bound=prefill_bound,
        )
    )
    found.figures += [figure(f"{side}, reading a prompt", reads[side], unit="tok/s") for side in reads]
    curves = [rate_curve(side, runs[side]) for side in runs]
    found.plots.append(Plot(title="Decoding, against llama-server", x="streams", y="tokens a second", curves=curves))
    return found


def _decode_figures(runs: StatsBySide, name: str, bounds: dict[int, float]) -> list[Figure]:
    peer = runs["llama-server"]
    return [
        figure(
            f"{name} ÷ llama-server, decoding, {count} stream{'s' if count > 1 else ''}",
            paired_ratios(decode_rates(entries), decode_rates(peer[count])),
            bound=bounds.get(count),
        )
        for count, entries in runs[name].items()
    ]


BENCHMARK = Benchmark("llama_server", "How does it compare with llama-server of the same llama.cpp?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
