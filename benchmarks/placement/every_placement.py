"""The best placement on a simulated machine, by trying them.

A placement is tried by numbers of layers: at home on each device, of these with their feeds there (the others have them
on the CPU), and of the CPU's layers with feeds on the device. All points of a grid are tried, and then the neighbours
of the best one, until none of them is better. Times and bytes are the simulated machine's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.placement.simulated_machine import SimulatedMachine
from tailrace.machine.placement.division import Placement

#: Placements that are tried at once.
_BATCH = 200_000
#: Steps of a grid, by the number of GPUs.
_STEPS = {1: 16, 2: 5, 3: 2}
_Counts = NDArray[np.int64]
_Sums = NDArray[np.float64]


class EveryPlacement:
    """See the module."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self._layers = len(machine.model.layers)
        self._gpus = len(machine.devices) - 1
        self._copies = 0 < machine.devices[1].copies_from <= machine.work.pass_tokens
        layers, devices, work = machine.model.layers, range(len(machine.devices)), machine.work

        def seconds(home: int, feed: int) -> _Sums:
            """Sums over the first layers, of those that have these devices."""
            prompt = work.prompt_weight / work.pass_tokens
            # The first GPU is taken for the one that computes with the CPU's weights.
            copier = 1 if self._copies else None
            return _sums(
                machine.layer(each, home, feed, 1, None)
                + prompt * machine.layer(each, home, feed, work.pass_tokens, copier)
                for each in layers
            )

        self._whole = [seconds(device, device) for device in devices]
        self._cpu_feeds = [seconds(device, 0) for device in devices]
        self._foreign = [seconds(0, device) for device in devices]
        self._home_bytes = _sums(map(machine.home_bytes, layers))
        self._feed_bytes = _sums(map(machine.feed_bytes, layers))

    def best(self) -> tuple[float, Placement] | None:
        """Seconds and placement of the best one that fits; None: no one that was tried fits."""
        best: tuple[float, Placement] | None = None
        for output in range(self._gpus + 1):
            counts = None
            for batch in self._batches():
                counts = self._best_of(batch, output, counts)
            if counts is None:
                continue
            while True:
                better = self._best_of(self._neighbours(counts), output, counts)
                if better is None or np.array_equal(better, counts):
                    break
                counts = better
            placement = self._placement(counts, output)
            assert self._machine.fits(placement)
            seconds = self._machine.seconds(placement)
            if best is None or seconds < best[0]:
                best = seconds, placement
        return best

    def _batches(self) -> Iterator[_Counts]:
        points = min(_STEPS[self._gpus], self._layers)
        grid = np.unique(np.linspace(0, self._layers, points + 1).astype(np.int64))
        rows = itertools.product(grid.tolist(), repeat=3 * self._gpus)
        valid = (row for row in rows if self._is_valid(row))
        while batch := list(itertools.islice(valid, _BATCH)):
            yield np.array(batch, dtype=np.int64)

    def _is_valid(self, row: Sequence[int]) -> bool:
        homes, kept, foreign = row[: self._gpus], row[self._gpus : 2 * self._gpus], row[2 * self._gpus :]
        return sum(homes) + sum(foreign) <= self._layers and all(k <= h for k, h in zip(kept, homes, strict=True))

    def _neighbours(self, counts: _Counts) -> _Counts:
        steps = itertools.product((-1, 0, 1), repeat=3 * self._gpus) if self._gpus < 3 else np.eye(9, dtype=int)
        rows = [tuple((counts + np.array(step)).tolist()) for step in steps]
        return np.array([row for row in rows if min(row) >= 0 and self._is_valid(row)], dtype=np.int64)

    def _best_of(self, rows: _Counts, output: int, known: _Counts | None) -> _Counts | None:
        if known is not None:
            rows = np.vstack([known[None], rows])
        fits = np.ones(len(rows), dtype=bool)
        for held, device in zip(self._memory(rows, output), self._machine.devices, strict=True):
            fits &= held <= device.free
        if not fits.any():
            return None
        seconds = np.where(fits, self._seconds(rows, output), np.inf)
        best: _Counts = rows[int(np.argmin(seconds))]
        return best

    def _ranges(self, rows: _Counts) -> Iterator[tuple[int, _Counts, _Counts, _Counts, _Counts, _Counts]]:
        """For each GPU: the begin of its block, of the block's feeds there, the end, and the foreign feeds' range."""
        end, taken = np.full(len(rows), self._layers), np.zeros(len(rows), dtype=np.int64)
        ends, foreign = {}, {}
        for gpu in range(self._gpus - 1, -1, -1):
            ends[gpu] = end
            foreign[gpu] = taken
            end = end - rows[:, gpu]
            taken = taken + rows[:, 2 * self._gpus + gpu]
        for gpu in range(self._gpus):
            kept = ends[gpu] - rows[:, self._gpus + gpu]
            begin, count = foreign[gpu], rows[:, 2 * self._gpus + gpu]
            yield gpu + 1, ends[gpu] - rows[:, gpu], kept, ends[gpu], begin, begin + count

    def _seconds(self, rows: _Counts, output: int) -> NDArray[np.float64]:
        machine = self._machine
        prompt = machine.work.prompt_weight / machine.work.pass_tokens
        on_cpu = self._layers - rows[:, : self._gpus].sum(axis=1)
        total = self._whole[0][on_cpu] + machine.output(output) * (1 + prompt)
        at = np.zeros(len(rows), dtype=np.int64)

        def transfers(target: int, tokens: int) -> NDArray[np.float64]:
            sources = range(self._gpus + 1)
            known = np.array([machine.transfer(source, target, tokens) for source in sources], dtype=np.float64)
            return np.take(known, at)

        for device, start, kept, end, begin, stop in self._ranges(rows):
            total += self._cpu_feeds[device][kept] - self._cpu_feeds[device][start]
            total += self._whole[device][end] - self._whole[device][kept]
            total += self._foreign[device][stop] - self._foreign[device][begin]
            total -= self._whole[0][stop] - self._whole[0][begin]
            moved = transfers(device, 1) + prompt * transfers(device, machine.work.pass_tokens)
            moved += (1 + prompt) * 5 * machine.devices[device].write_seconds
            total += np.where(end > start, moved, 0.0)
            at = np.where(end > start, device, at)
        total += (1 + prompt) * transfers(output, 1)
        found: NDArray[np.float64] = total
        return found

    def _memory(self, rows: _Counts, output: int) -> list[NDArray[np.float64]]:
        machine, model = self._machine, self._machine.model
        on_cpu = self._layers - rows[:, : self._gpus].sum(axis=1)
        held = [self._home_bytes[on_cpu] + self._feed_bytes[on_cpu] + model.embedding.bytes + machine.buffer_bytes()]
        for device, start, kept, end, begin, stop in self._ranges(rows):
            own = self._feed_bytes[end] - self._feed_bytes[kept] + self._feed_bytes[stop] - self._feed_bytes[begin]
            used = (end > start) | (stop > begin) | (device == output)
            held.append(self._home_bytes[end] - self._home_bytes[start] + own + used * machine.buffer_bytes())
            held[0] = held[0] + self._feed_bytes[kept] - self._feed_bytes[start]
            held[0] = held[0] - self._feed_bytes[stop] + self._feed_bytes[begin]
        held[output] = held[output] + machine.output_bytes()
        if self._copies:
            # More than enough: the largest tensor counts where the CPU has any, for each GPU.
            largest = max(
                max(each.attention.largest, each.feed_forward.largest, each.experts.largest) for each in model.layers
            )
            whole = rows[:, : self._gpus].sum(axis=1) == self._layers
            whole &= (rows[:, : self._gpus] - rows[:, self._gpus : 2 * self._gpus]).sum(axis=1) == 0
            copied = np.where(whole, 0, largest)
            held[1:] = [each + copied for each in held[1:]]
        return held

    def _placement(self, counts: _Counts, output: int) -> Placement:
        homes, feeds = np.zeros(self._layers, dtype=int), np.zeros(self._layers, dtype=int)
        for device, start, kept, end, begin, stop in self._ranges(counts[None]):
            homes[start[0] : end[0]] = device
            feeds[kept[0] : end[0]] = device
            feeds[begin[0] : stop[0]] = device
        return Placement(homes=tuple(homes.tolist()), feeds=tuple(feeds.tolist()), output=output)


def _sums(values: Iterable[float]) -> _Sums:
    return np.concatenate([[0.0], np.cumsum(np.fromiter(values, dtype=np.float64))])
