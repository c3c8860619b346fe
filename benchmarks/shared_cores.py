"""Two engines that decode at the same time: tokens a second together, with the cores divided and without.

``python -m benchmarks.shared_cores [--rounds N] [--seconds S]``. Two processes decode with the starter model, each with
a thread for each core. In each round both modes have a turn of the same length. It needs no server.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

from tailrace.engine.core_share import CoreShare
from tailrace.engine.load import load_llama
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.models.model_reference import locate_model
from tailrace.observe import logs
from tailrace.settings import STARTER_MODEL, Settings
from tailrace.shared_memory.cores_page import ANY_CORES, CoresPage
from tailrace.shared_memory.memory_file import create_page

#: Tokens after which the sequence begins again, so that contexts don't grow.
_LENGTH = 256


def decode(orders: Connection, page_fd: int, number: int) -> None:
    """Load the model. For each order (whether to divide, seconds) decode so long, and answer with the tokens."""
    logs.configure("engine", level="warning", form="console")
    settings = Settings(ctx=2048)
    replica = make_plan(read_topology(), settings).replicas[0]
    backend = load_llama(locate_model(STARTER_MODEL).path, settings, replica)
    share = CoreShare(CoresPage(page_fd), number, ANY_CORES, [backend])
    orders.send(0)
    while (order := orders.recv()) is not None:
        divides, seconds = order
        if not divides:
            backend.share_cores(0, 1)
        end, tokens = time.monotonic() + seconds, 0
        while (now := time.monotonic()) < end:
            position = tokens % _LENGTH
            if not position:
                backend.reset()
            if divides:
                share.before_step(now)
            backend.decode([7], [position], [0], [0])
            tokens += 1
        share.end_work()
        orders.send(tokens)


def main() -> None:
    """Run both modes in turn and print their medians and the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    page_fd = create_page()
    engines: list[Connection] = []
    for number in (1, 2):
        ours, theirs = context.Pipe()
        context.Process(target=decode, args=(theirs, page_fd, number), daemon=True).start()
        engines.append(ours)
    for engine in engines:
        engine.recv()

    def rate(divides: bool, some: list[Connection]) -> float:
        for engine in some:
            engine.send((divides, options.seconds))
        tokens = [int(engine.recv()) for engine in some]
        return sum(tokens) / float(options.seconds)

    both, apart, alone, ratios = [], [], [], []
    for _ in range(options.rounds):
        apart.append(rate(False, engines))
        both.append(rate(True, engines))
        alone.append(rate(True, engines[:1]))
        ratios.append(both[-1] / apart[-1])
    for engine in engines:
        engine.send(None)
    print(f"one engine alone        {statistics.median(alone):7.1f} tokens/s")
    print(f"two, each all cores     {statistics.median(apart):7.1f} tokens/s together")
    print(f"two, cores divided      {statistics.median(both):7.1f} tokens/s together")
    print(f"divided ÷ each all      {statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
