"""CPU time of a loop's reports to a cluster's router: with nothing new, and with a new block in each slot.

The cache is the engine's own accounting, filled without a model. A report is made ten times a second at most.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.kv_cache.held_prefixes import HeldPrefixes
from tailrace.engine.kv_cache.prefix_cache import PrefixCache


def _microseconds(work: Callable[[], object], before: Callable[[], object], rounds: int) -> float:
    """The median CPU time of ``work``, each time after ``before``."""
    times: list[float] = []
    for _ in range(rounds):
        before()
        begun = time.thread_time()
        work()
        times.append(time.thread_time() - begun)
    return 1e6 * statistics.median(times)


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8000, help="of each slot and of each state in host memory")
    parser.add_argument("--states", type=int, default=100, help="in host memory")
    options = parser.parse_args()
    source, rounds = random.Random(1), 200
    cells = options.slots * (options.tokens + (rounds + 5) * BLOCK_TOKENS)
    backend = FakeBackend(ctx=cells, parallel=options.slots, kv_tokens=cells, batch=512, always_shared=True)
    cache = PrefixCache.empty(backend, options.states * options.tokens, None)
    accounting = cache.accounting
    layout = accounting.choose_layout([cells // options.slots] * options.slots)
    if layout is not None:
        accounting.relayout(layout)
    for slot in range(options.slots):
        accounting.append(slot, source.choices(range(30_000), k=options.tokens))
    for _ in range(options.states):
        accounting.prefix_store.offload(source.choices(range(30_000), k=options.tokens))
    held = HeldPrefixes(cache, "model")
    begun = time.thread_time()
    held.look()
    print(f"first report: {1e3 * (time.thread_time() - begun):.1f} ms")

    def grow() -> None:
        for slot in range(options.slots):
            accounting.append(slot, source.choices(range(30_000), k=BLOCK_TOKENS))

    quiet = _microseconds(held.look, lambda: None, rounds)
    grown = _microseconds(held.look, grow, rounds)
    print(f"a report with nothing new: {quiet:.1f} µs")
    print(f"a report with a new block in each of {options.slots} slots: {grown:.0f} µs")
    print(f"a reply's token: {grown / options.slots / BLOCK_TOKENS:.2f} µs")


if __name__ == "__main__":
    main()
