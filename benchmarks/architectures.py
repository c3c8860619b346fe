"""Compares tailrace with llama-server on each modern architecture, and its speed with the memory's bandwidth.

    python -m benchmarks.architectures --only experts-128,gpt-oss-small

``-small`` after a name takes the smaller model of the same kind, with the same bounds. The models have random weights
(``synthetic``). A share of the bandwidth is tokens a second × the bytes of the weights that a token reads ÷ the
bandwidth that ``tailrace doctor`` measures, which is measured anew in each turn.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from statistics import median

from benchmarks.harness import servers
from benchmarks.harness.bandwidth_share import bandwidth_shares, memory_bandwidth, model_touched_bytes
from benchmarks.harness.benchmark import (
    Benchmark,
    Measurements,
    Options,
    add_options,
    read_options,
    run_and_save,
)
from benchmarks.harness.rates import decode_rates
from benchmarks.harness.results import figure
from benchmarks.llama_server import compare, peer_server
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.errors import TailraceError
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import load_stats

#: The bounds of each model of ``synthetic``: decoding at 1, 4 and 8 streams, and a prompt, ÷ llama-server.
_BOUNDS: dict[str, tuple[float, float, float, float]] = {
    "experts-128": (1.0, 1.5, 1.5, 2.0),
    "experts": (1.0, 1.5, 1.5, 2.0),
    "gpt-oss": (1.0, 1.5, 1.5, 1.5),
    "deepseek2": (1.0, 1.3, 1.3, 1.5),
    "qwen35": (1.0, 1.3, 1.3, 1.3),
    "qwen35moe": (1.0, 1.3, 1.3, 1.3),
    "granite-hybrid": (1.0, 1.3, 1.3, 1.3),
    "falcon-h1": (1.0, 1.3, 1.3, 1.3),
    "lfm2": (1.0, 1.3, 1.3, 1.3),
    "mamba2": (1.0, 1.3, 1.3, 1.3),
    "gemma3": (1.0, 1.3, 1.3, 1.5),
}
#: Of the bandwidth, at one stream.
_BANDWIDTH_BOUND = 0.85


def _measure(options: Options, names: tuple[str, ...] = tuple(_BOUNDS)) -> Measurements:
    found = Measurements()
    for name in names:
        model = synthetic("tiny-experts" if options.quick else name, options.model)
        more = _compare(replace(options, model=model), name)
        found.figures += more.figures
        found.plots += more.plots
        found.notes += more.notes
    return found


def _compare(options: Options, name: str) -> Measurements:
    one, four, eight, prompt = _BOUNDS[_kind(name)]
    with contextlib.ExitStack() as stack:
        tailrace = stack.enter_context(servers.tailrace(options.model, options.threads, "--kernels", options.kernels))
        peer = stack.enter_context(peer_server(options))
        found = compare(
            tailrace, peer, options, bounds={1: one, 4: four, 8: eight}, prefill_bound=prompt, name=f"tailrace, {name}"
        )
        load = LoadProfile(streams=1, prompt_tokens=32, output_tokens=options.tokens(64))
        tailrace.run(load, 1000)  # The prompt is in the prefix cache afterwards, which leaves almost only decoding.
        turns = [(memory_bandwidth(), load_stats(tailrace.run(load, 1000))) for _ in range(options.turns)]
    alone, bandwidths = decode_rates([stats for _, stats in turns]), [bandwidth for bandwidth, _ in turns]
    found.figures += [
        figure(
            f"{name}, 1 stream: part of the memory's bandwidth",
            bandwidth_shares(options.model, alone, bandwidths),
            bound=_BANDWIDTH_BOUND,
        ),
        figure(f"{name}, 1 stream", alone, unit="tok/s"),
    ]
    found.notes.append(
        f"{name}: {options.model.stat().st_size / 1e9:.2f} GB, of which a token reads "
        f"{model_touched_bytes(options.model) / 1e6:.0f} MB; memory is read at {median(bandwidths) / 1e9:.1f} GB/s."
    )
    return found


def _kind(name: str) -> str:
    return name.removesuffix("-small")


BENCHMARK = Benchmark("architectures", "How fast is each modern architecture, against llama-server?", _measure)


def main() -> int:
    """The command; ``--only`` selects architectures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures", description=BENCHMARK.question)
    add_options(parser)
    parser.add_argument("--only", metavar="NAME,...", default=",".join(_BOUNDS), help="these architectures [all]")
    parsed = parser.parse_args()
    names = tuple(parsed.only.split(","))
    if unknown := [name for name in names if _kind(name) not in _BOUNDS or name not in SHAPES]:
        parser.error(f"there is no architecture {', '.join(unknown)}; there are {', '.join(_BOUNDS)}")
    try:
        options = read_options(parsed)
    except TailraceError as error:
        parser.error(str(error))
    chosen = Benchmark(BENCHMARK.name, BENCHMARK.question, lambda options: _measure(options, names))
    return 1 if run_and_save([chosen], options, parsed.report) else 0


if __name__ == "__main__":
    sys.exit(main())
