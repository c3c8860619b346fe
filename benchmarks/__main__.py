"""All benchmarks with one command: ``python -m benchmarks [--only PART,...] [--quick] [--report FOLDER]``.

Each part's result is a file in the folder, and the report is made of all files that are there: parts may be run one by
one.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    api_vs_engine,
    calls,
    contexts,
    conversation,
    engine_vs_llama_bench,
    flood,
    formats,
    front_end,
    grammar,
    kernels,
    large_model,
    llama_server,
    long_steps,
    max_tokens,
    slots,
    speculation,
    weights,
)
from benchmarks.harness import report, results
from benchmarks.harness.part import Part, add_options, read_options, run_and_save
from tailrace.errors import TailraceError

#: In the report's order.
PARTS: tuple[Part, ...] = (
    api_vs_engine.PART,
    long_steps.PART,
    large_model.PART,
    front_end.PART,
    engine_vs_llama_bench.PART,
    llama_server.PART,
    kernels.PART,
    weights.PART,
    formats.PART,
    flood.PART,
    conversation.PART,
    contexts.PART,
    slots.PART,
    max_tokens.PART,
    speculation.PART,
    grammar.PART,
    calls.PART,
)


def chosen(names: str | None) -> list[Part]:
    """The parts of a list separated by commas; all for None. Raises ValueError on a name that there isn't."""
    if names is None:
        return list(PARTS)
    wanted = [name.strip() for name in names.split(",")]
    known = {part.name: part for part in PARTS}
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code: 1 when a part failed. A missed bound is a finding, not a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure tailrace, and write a report.",
        epilog="Parts: " + "; ".join(f"{part.name}: {part.question}" for part in PARTS),
    )
    add_options(parser)
    parser.add_argument("--only", metavar="PART,...", help="these parts only")
    parsed = parser.parse_args(arguments)
    try:
        options, parts = read_options(parsed), chosen(parsed.only)
    except (TailraceError, ValueError) as error:
        parser.error(str(error))
    failed = run_and_save(parts, options, parsed.report)
    found = results.load(parsed.report, [part.name for part in PARTS])
    if found:
        path = parsed.report / "report.html"
        report.write(found, path)
        print(f"{path}: {len(found)} of {len(PARTS)} parts")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
