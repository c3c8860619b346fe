"""Runs benchmarks: ``python -m benchmarks [NAME ...] [--quick] [--report FOLDER]``; without names, all of the report.

Each result is a file in the folder, and the report has all results in the folder. So benchmarks may run one by one.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    agent_trace,
    api_vs_engine,
    architectures,
    calls,
    cluster,
    cluster_trace,
    contexts,
    conversation,
    device_states,
    devices,
    engine_vs_llama_bench,
    fairness,
    flood,
    formats,
    front_end,
    grammar,
    kernels,
    large_model,
    llama_server,
    long_steps,
    max_tokens,
    observability,
    page_cost,
    slots,
    soak,
    speculation,
    stored_responses,
    weights,
)
from benchmarks.harness import report, results
from benchmarks.harness.benchmark import Benchmark, add_options, read_options, run_and_save
from tailrace.errors import TailraceError

#: In the report's order.
BENCHMARKS: tuple[Benchmark, ...] = (
    api_vs_engine.BENCHMARK,
    long_steps.BENCHMARK,
    large_model.BENCHMARK,
    front_end.BENCHMARK,
    engine_vs_llama_bench.BENCHMARK,
    llama_server.BENCHMARK,
    architectures.BENCHMARK,
    kernels.BENCHMARK,
    weights.BENCHMARK,
    formats.BENCHMARK,
    flood.BENCHMARK,
    fairness.BENCHMARK,
    conversation.BENCHMARK,
    agent_trace.BENCHMARK,
    contexts.BENCHMARK,
    slots.BENCHMARK,
    max_tokens.BENCHMARK,
    observability.BENCHMARK,
    page_cost.BENCHMARK,
    stored_responses.BENCHMARK,
    cluster.BENCHMARK,
    cluster_trace.BENCHMARK,
    devices.BENCHMARK,
    device_states.BENCHMARK,
    speculation.BENCHMARK,
    grammar.BENCHMARK,
    calls.BENCHMARK,
)


def select_benchmarks(names: str | None) -> list[Benchmark]:
    """The benchmarks of a comma-separated list; all for None. Raises ValueError for an unknown name."""
    if names is None:
        return list(BENCHMARKS)
    wanted = [name.strip() for name in names.split(",")]
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns its exit status: 1 when a benchmark failed. A missed bound is a result, not a failure."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["soak"]:
        return soak.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure tailrace, and write a report.",
        epilog="Benchmarks: "
        + "; ".join(f"{one.name}: {one.question}" for one in BENCHMARKS)
        + "; soak: see its own --help",
    )
    add_options(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these benchmarks only [all but soak]")
    parser.add_argument("--only", metavar="NAME,...", help="the same, as one list")
    parsed = parser.parse_args(arguments)
    try:
        options, selected = read_options(parsed), select_benchmarks(",".join(parsed.names) or parsed.only)
    except (TailraceError, ValueError) as error:
        parser.error(str(error))
    failed = run_and_save(selected, options, parsed.report)
    found = results.load(parsed.report, [benchmark.name for benchmark in BENCHMARKS])
    if found:
        path = parsed.report / "report.html"
        report.write(found, path)
        print(f"{path}: {len(found)} of {len(BENCHMARKS)} benchmarks")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
