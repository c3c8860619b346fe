"""Compares ``--weights fast`` and the settings of ``tailrace tune`` with llama-server and the original model file."""

from __future__ import annotations

import contextlib

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.llama_server import PEER_FLAGS, STREAMS, compare, peer_server


def _measure(options: Options) -> Measurements:
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(peer_server(options))
        # The first start converts and measures, which is over before the server says that it is ready.
        fast = stack.enter_context(servers.tailrace(options.model, options.threads, "--weights", "fast", tuned=True))
        found = compare(fast, peer, options, bounds=dict.fromkeys(STREAMS, 1.3), prefill_bound=2.5, name="fast weights")
    found.notes.append("what the conversion loses: tailrace convert --to fast")
    found.notes.append(f"llama-server {' '.join(PEER_FLAGS)} and its defaults: {servers.version_of('llama-server')}")
    return found


BENCHMARK = Benchmark("weights", "What do fast weights give against llama-server with the file as it is?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
