"""Searches the divisions of a model among devices for the one with the best predicted speed that fits.

A device has a block of layers at home. Of these it has the feeds (``ModelParts.feed``) of the last ones, and the CPU
has the other feeds. A device that is fast enough may also have feeds of the CPU's first layers. The output is on the
CPU or with the last layer. Of these divisions the search finds the best one that fits. Free memory only decides which
of them fit, so more memory never makes the result slower.

Costs and bytes of a block depend on the block alone, so devices are decided one after the other, from the one with the
last layers to the CPU. The state between two of them has two numbers: the layers that are left, and the feeds of the
CPU's layers that are taken.

The search runs up to three times: coarsely, without feeds of the CPU's layers elsewhere, and with all of it. Each run
drops what can't become cheaper than the result of the one before (``RemainingCost``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tailrace.machine.placement.cost import CostModel
from tailrace.machine.placement.demands import Demands
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.placement.remaining_cost import RemainingCost


class _Block(NamedTuple):
    """One device's part."""

    device: int
    layers: int
    feeds: int  #: of the block's last layers
    foreign: int  #: feeds of the CPU's layers, after those of devices that were decided before
    has_output: bool


class _Partial(NamedTuple):
    """The devices that are decided: their cost, what they leave to the CPU, and their blocks, the last layers first."""

    cost: float
    cpu_bytes: int
    blocks: tuple[_Block, ...]


#: Blocks of a first, coarse search.
_COARSE = 8
#: Part of what the CPU would take for everything, by which two sums of the same numbers may differ.
_ROUNDING = 1e-9
#: Layers that are left for the other devices, and feeds of the CPU's layers that are taken.
_State = tuple[int, int]


class DivisionSearch:
    """See the module."""

    def __init__(
        self,
        costs: CostModel,
        model: ModelParts,
        devices: Sequence[Device],
        work: Work,
        demands: Demands,
        *,
        order: tuple[int, ...],
        copier: int | None = None,
    ) -> None:
        """``order``: the devices that may have a part. ``copier``: the one that computes with the CPU's weights."""
        self._model = model
        self._devices = devices
        self._demands = demands
        self._order = order
        self._layers = len(model.layers)
        self.costs = costs
        decode, prompt, weight = costs.decode, costs.prompt(copier), work.prompt_weight / work.pass_tokens

        def sums(values: Iterator[float]) -> list[float]:
            return list(accumulate(values, initial=0.0))

        # Prefix sums over layers: seconds that count by device, and bytes.
        self._home_cost, self._feed_cost = (
            [
                sums(token + weight * prompt for token, prompt in zip(tokens, prompts, strict=True))
                for tokens, prompts in zip(decoded, read, strict=True)
            ]
            for decoded, read in ((decode.home, prompt.home), (decode.feed, prompt.feed))
        )
        self._feed_counts = list(accumulate(map(decode.has_feed, range(self._layers)), initial=0))
        #: Layers that are whole at home because a rule names them, among the first ones.
        self._named = list(accumulate((layer in demands.homes for layer in range(self._layers)), initial=0))
        self._home_bytes = list(accumulate(map(costs.home_bytes, model.layers), initial=0))
        self._feed_bytes = list(accumulate((model.feed(layer).bytes for layer in model.layers), initial=0))
        numbers = range(len(devices))
        self._move = [decode.move[device] + weight * prompt.move[device] for device in numbers]
        self._fetch = [decode.fetch[device] + weight * prompt.fetch[device] for device in numbers]
        self._visit = [decode.visit[device] + weight * prompt.visit[device] for device in numbers]
        self._inputs = [decode.inputs[device] + weight * prompt.inputs[device] for device in numbers]
        self._submit = [device.submit_seconds * (1 + weight) for device in devices]
        self._move_last = [decode.move_last[device] + weight * prompt.move_last[device] for device in numbers]
        self._output_cost = [decode.output[device] + weight * prompt.output[device] for device in numbers]
        pinned, used = costs.pinned_bytes(), costs.pinned_devices()
        if demands.output is not None:
            pinned[demands.output] += costs.output_bytes
            used.add(demands.output)
        used.add(CPU)
        #: Whether a device needs its buffers also without a block.
        self._has_buffers = [device in used for device in numbers]
        #: Bytes for blocks.
        self._free = [
            device.free - size - (costs.buffer_bytes if number in used else 0)
            for number, (device, size) in enumerate(zip(devices, pinned, strict=True))
        ]
        if copier is not None:
            self._free[copier] -= costs.max_copied_bytes
        self._free[CPU] -= model.embedding.bytes + sum(map(costs.local_kv_bytes, model.layers))
        self._gaining = [self._gains(device) for device in numbers]
        self._filled, self._tried = self._foreign_devices()
        everything = self._home_bytes[-1] + self._feed_bytes[-1] + costs.output_bytes
        #: Whether a faster placement may need too much of the CPU's memory.
        self._cpu_decides = demands.local and self._free[CPU] < everything

    def best(self) -> Placement | None:
        """The best placement; None: none fits."""
        if any(free < 0 and used for free, used in zip(self._free, self._has_buffers, strict=True)):
            return None
        limit, slack = float("inf"), _ROUNDING * (self._home_cost[CPU][-1] + self._feed_cost[CPU][-1])
        # Each run is faster with the limit of the one before. Without a part of its own the CPU's memory comes first.
        runs = [(max(1, self._layers // _COARSE), False), (1, False)] if self._demands.local else []
        for step, helps in [*runs, (1, True)]:
            found = self._best_end(step, limit, helps=helps)
            if found is not None:
                # The cost of an output on a device is that in relation to the CPU, so the sum may be negative.
                limit = found.cost + slack if self._demands.local else limit
        return None if found is None else self._placement(found.blocks)

    def _best_end(self, step: int, limit: float, *, helps: bool) -> _Partial | None:
        """The best division; None: none fits, or each costs more than ``limit``.

        ``step``: blocks have multiples of so many layers, or as many as are left. ``helps``: devices may have feeds of
        the CPU's layers.
        """
        states: dict[_State, list[_Partial]] = {(self._layers, 0): [_Partial(0.0, 0, ())]}
        for number in reversed(range(len(self._order))):
            device, remaining = self._order[number], self._remaining(self._order[:number])
            helps_here = helps and device in (self._filled, self._tried)
            found: dict[_State, list[_Partial]] = defaultdict(list)
            for (left, taken), partials in states.items():
                cheapest = min(partial.cost for partial in partials)
                for block, cost, size in self._blocks(device, left, taken, step, helps=helps_here):
                    state = left - block.layers, taken + block.foreign
                    max_cost = limit - cost - remaining.min_seconds(*state)
                    if cheapest > max_cost:
                        continue
                    max_bytes = self._free[CPU] - size - remaining.min_bytes(*state)
                    for before in partials:
                        if before.cost <= max_cost and before.cpu_bytes <= max_bytes:
                            self._keep(found[state], before, block, cost, size)
            states = {state: self._pruned(partials) for state, partials in found.items()}
        ends = [end for state, partials in states.items() for end in self._ends(state, partials)]
        return min(ends, key=self._rank, default=None)

    def _remaining(self, devices: Sequence[int]) -> RemainingCost:
        """Bounds for the layers that are left for ``devices`` and the CPU."""
        capacity = sum(
            max(0, self._free[device] - (0 if self._has_buffers[device] else self.costs.buffer_bytes))
            for device in devices
        )
        gained = 0.0
        if self._demands.output is None:
            gained = max((self._output_cost[CPU] - self._output_cost[device] for device in devices), default=0.0)
        sizes = self._home_bytes, self._feed_bytes
        return RemainingCost(self._home_cost, self._feed_cost, sizes, devices, capacity=capacity, output=gained)

    def _rank(self, partial: _Partial) -> tuple[float, ...]:
        cost, size = partial.cost, partial.cpu_bytes
        # Without a part of its own the CPU gets as little as possible.
        return (cost, size) if self._demands.local else (size, cost)

    def _keep(self, known: list[_Partial], before: _Partial, block: _Block, cost: float, size: int) -> None:
        """Add ``before`` with the block to what is ``known`` of a state, unless that is better."""
        cost, size = before.cost + cost, before.cpu_bytes + size
        if known and not self._cpu_decides:
            best = known[0]
            if (best.cost <= cost) if self._demands.local else (best.cpu_bytes, best.cost) <= (size, cost):
                return
            known.clear()
        known.append(_Partial(cost, size, (*before.blocks, block)))

    def _pruned(self, partials: list[_Partial]) -> list[_Partial]:
        """Those that may still be a part of the best placement."""
        if not self._cpu_decides:
            return partials
        useful: list[_Partial] = []
        for each in sorted(partials, key=self._rank):
            if not useful or each.cpu_bytes < useful[-1].cpu_bytes:
                useful.append(each)
        return useful

    def _blocks(
        self, device: int, left: int, taken: int, step: int, *, helps: bool
    ) -> Iterator[tuple[_Block, float, int]]:
        """The device's possible blocks of the first ``left`` layers, with their costs and the bytes left to the CPU."""
        demands = self._demands
        is_last = left == self._layers
        free = self._free[device]
        yield _Block(device, 0, 0, 0, False), 0.0, 0
        if not self._has_buffers[device]:
            free -= self.costs.buffer_bytes
        for layers in range(left + 1):
            first = left - layers
            if layers and demands.homes.get(first, device) != device:
                break
            if layers % step and first:
                continue
            capacity = free - (self._home_bytes[left] - self._home_bytes[first])
            if capacity < 0:
                break
            for has_output in (True, False) if layers and is_last and demands.output is None else (False,):
                here = capacity - (self.costs.output_bytes if has_output else 0)
                if here >= 0:
                    cost = 0.0
                    if layers:
                        cost = self._inputs[device] + self._moves(device, is_last=is_last, has_output=has_output)
                    for block, own, size in self._with_feeds(device, first, left, taken, here, helps=helps):
                        yield block._replace(has_output=has_output), cost + own, size

    def _moves(self, device: int, *, is_last: bool, has_output: bool) -> float:
        """Seconds of a block's moves, and of the output on its device in relation to the output on the CPU."""
        if not is_last:
            return 2 * self._move[device]
        if has_output:
            return self._move[device] + self._output_cost[device] - self._output_cost[CPU]
        wanted = self._demands.output
        if wanted == device:
            return self._move[device]
        return self._move[device] + self._move_last[device] + (0.0 if wanted is None else self._move_last[wanted])

    def _with_feeds(
        self, device: int, first: int, left: int, taken: int, capacity: int, *, helps: bool
    ) -> Iterator[tuple[_Block, float, int]]:
        layers = left - first
        home = self._home_cost[device][left] - self._home_cost[device][first]
        for feeds in self._feed_choices(device, first, left, capacity):
            begin = left - feeds  # of the layers with their feeds here
            if self._named[begin] > self._named[first]:
                continue
            own = home + self._feed_cost[device][left] - self._feed_cost[device][begin]
            own += self._feed_cost[CPU][begin] - self._feed_cost[CPU][first]
            apart = self._feed_counts[begin] - self._feed_counts[first]
            own += self._fetch[device] * apart
            if apart:
                own += self._submit[device] * layers
            size = self._feed_bytes[begin] - self._feed_bytes[first]
            if layers:
                yield _Block(device, layers, feeds, 0, False), own, size
            if helps and feeds == layers:
                for end in self._foreign_ends(
                    device, taken, first, capacity - (self._feed_bytes[left] - self._feed_bytes[begin])
                ):
                    extra = self._feed_cost[device][end] - self._feed_cost[device][taken]
                    count = self._feed_counts[end] - self._feed_counts[taken]
                    extra += self._visit[device] * count
                    if count + layers > 1:
                        # Whole so far, the block is submitted anew, too.
                        extra += self._submit[device] * (count + layers)
                    yield _Block(device, layers, feeds, end - taken, False), own + extra, size

    def _foreign_ends(self, device: int, taken: int, first: int, capacity: int) -> Iterable[int]:
        """Ends of the feeds of the CPU's layers, from ``taken`` on, that the device may have."""
        max_end = min(first, bisect_right(self._feed_bytes, self._feed_bytes[taken] + capacity) - 1)
        max_end = min(max_end, bisect_right(self._named, self._named[taken]) - 1)
        if max_end <= taken:
            return ()
        return range(taken + 1, max_end + 1) if device == self._tried else (max_end,)

    def _feed_choices(self, device: int, first: int, left: int, capacity: int) -> Iterator[int]:
        """Numbers of the block's last layers that may have their feeds here."""
        layers = left - first
        if self._demands.device_layers is not None:
            if self._feed_bytes[left] - self._feed_bytes[first] <= capacity:
                yield layers
            return
        max_feeds = layers
        if self._feed_bytes[left] - self._feed_bytes[first] > capacity:
            # The first layer whose feed fits with all behind it.
            max_feeds = left - bisect_left(self._feed_bytes, self._feed_bytes[left] - capacity)
        # Each feed that is here and not on the CPU is worth it, or none is.
        gains = self._gaining[device]
        if gains or max_feeds == layers or not self._demands.local:
            yield max_feeds
        if not gains and max_feeds:
            yield 0

    def _gains(self, device: int) -> bool:
        """Whether a layer of the device's block is faster with its feed there."""
        here, there = self._feed_cost[device][-1], self._feed_cost[CPU][-1]
        apart = self._fetch[device] * self._feed_counts[-1] + self._submit[device] * self._layers
        return here <= there + apart

    def _foreign_devices(self) -> tuple[int | None, int | None]:
        """The devices that may have feeds of the CPU's layers. The first one gets as many as fit; for the other one all
        numbers of them are tried. None where that isn't faster. To try them for more devices takes seconds.
        """
        if self._demands.device_layers is not None:
            return None, None
        costs = {
            device: self._feed_cost[device][-1] + self._visit[device] * self._feed_counts[-1] for device in self._order
        }
        helping = [device for device in self._order if costs[device] < self._feed_cost[CPU][-1]]
        # Feeds that the last device to be decided doesn't take, none takes.
        filled = next((device for device in helping if device == self._order[0]), None)
        tried = min((device for device in helping if device != filled), key=lambda device: costs[device], default=None)
        return filled, tried

    def _ends(self, state: _State, partials: Sequence[_Partial]) -> Iterator[_Partial]:
        """The partial placements with what is left on the CPU, where that fits."""
        left, taken = state
        demands = self._demands
        if taken > left or any(device != CPU for layer, device in demands.homes.items() if layer < left):
            return
        if demands.device_layers is not None and left != max(0, self._layers - demands.device_layers):
            return
        size = self._home_bytes[left] + self._feed_bytes[left] - self._feed_bytes[taken]
        cost = self._home_cost[CPU][left] + self._feed_cost[CPU][left] - self._feed_cost[CPU][taken]
        for partial in partials:
            has_output = any(block.has_output for block in partial.blocks) or demands.output is not None
            end = partial._replace(
                cost=partial.cost + cost,
                cpu_bytes=partial.cpu_bytes + size + (0 if has_output else self.costs.output_bytes),
            )
            if end.cpu_bytes <= self._free[CPU]:
                yield end

    def _placement(self, blocks: Sequence[_Block]) -> Placement:
        homes: list[int] = []
        feeds: list[int] = []
        output = CPU if self._demands.output is None else self._demands.output
        for block in reversed(blocks):
            homes += [block.device] * block.layers
            feeds += [CPU] * (block.layers - block.feeds) + [block.device] * block.feeds
            output = block.device if block.has_output else output
        on_cpu = self._layers - len(homes)
        homes, feeds = [CPU] * on_cpu + homes, [CPU] * on_cpu + feeds
        at = 0
        for block in blocks:
            feeds[at : at + block.foreign] = [block.device] * block.foreign
            at += block.foreign
        for layer in range(self._layers):
            if self._feed_counts[layer] == self._feed_counts[layer + 1]:
                feeds[layer] = homes[layer]
        return Placement(homes=tuple(homes), feeds=tuple(feeds), output=output, kv_is_local=self._demands.kv_is_local)
