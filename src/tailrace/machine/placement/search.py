"""Finds the placement with the best predicted speed that fits each device's memory.

llama.cpp places layers in blocks: the CPU has the first ones, each further device a block after it. Tensors of a layer
can be put elsewhere by their names, which is done for routed experts. So a placement is a number of layers for each
device, and for each layer with experts the device of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CPU, CostModel, Placement, Prediction
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.plan_wording import memory_size

#: Divisions of the layers that are all tried; with more of them, the best of a rougher grid is improved in steps.
_MAX_DIVISIONS = 400


class Choice(msgspec.Struct, frozen=True):
    """The chosen placement and what it is predicted to take and give."""

    placement: Placement
    prediction: Prediction


def best_placement(model: ModelParts, devices: Sequence[Device], work: Work) -> Choice:
    """The best placement on ``devices``, of which the first is the CPU.

    Raises ConfigurationError with each device's numbers where no placement fits.
    """
    return _Search(model, devices, work).best()


class _Search:
    def __init__(self, model: ModelParts, devices: Sequence[Device], work: Work) -> None:
        self._model = model
        self._devices = devices
        self._work = work
        self._costs = CostModel(model, devices, work)
        #: Prefix sums of what layers take at home.
        self._homes = list(accumulate((self._costs.home_bytes(layer) for layer in model.layers), initial=0))

    def best(self) -> Choice:
        best: Choice | None = None
        step = 1
        while self._count(step) > _MAX_DIVISIONS:
            step *= 2
        for division in self._divisions(step):
            best = self._better(best, division)
        while best is not None and step > 1:
            step //= 2
            best = self._improved(best, step)
        if best is None:
            raise ConfigurationError(self._refusal())
        return best

    def _better(self, best: Choice | None, division: Sequence[int]) -> Choice | None:
        for output in range(len(self._devices)):
            for choice in self._choices(division, output):
                if best is None or choice.prediction.cost(self._work) < best.prediction.cost(self._work):
                    best = choice
        return best

    def _improved(self, best: Choice, step: int) -> Choice:
        """The best that is reached by moving ``step`` layers between neighbours, as often as that helps."""
        while True:
            counts = [best.placement.homes.count(device) for device in range(len(self._devices))]
            found = best
            for source in range(len(counts)):
                for target in range(len(counts)):
                    moved = min(step, counts[source])
                    if source != target and moved:
                        division = list(counts)
                        division[source] -= moved
                        division[target] += moved
                        found = self._better(found, division) or found
            if found is best:
                return best
            best = found

    def _count(self, step: int) -> int:
        """About how many divisions there are with blocks of whole steps."""
        count, blocks = 1, len(self._model.layers) // step + 1
        for number in range(1, len(self._devices)):
            count = count * (blocks + number - 1) // number
        return count

    def _divisions(self, step: int) -> Iterator[tuple[int, ...]]:
        """The numbers of layers by device, in whole steps; the CPU has what is left."""
        layers = len(self._model.layers)

        def divide(left: int, devices: int) -> Iterator[tuple[int, ...]]:
            if devices == 0:
                yield ()
                return
            for count in [*range(0, left, step), left]:
                for rest in divide(left - count, devices - 1):
                    yield (count, *rest)

        for others in divide(layers, len(self._devices) - 1):
            yield (layers - sum(others), *others)

    def _choices(self, division: Sequence[int], output: int) -> Iterator[Choice]:
        """Placements with these blocks that fit: experts at home where there is room, or all apart from it."""
        homes = tuple(device for device, count in enumerate(division) for _ in range(count))
        free = self._free(division, output)
        if min(free) < 0:
            return
        for order in self._expert_orders():
            experts = self._place_experts(homes, list(free), order)
            if experts is not None:
                placement = Placement(homes, experts, output)
                prediction = self._costs.predict(placement)
                if all(taken <= device.free for taken, device in zip(prediction.memory, self._devices, strict=True)):
                    yield Choice(placement, prediction)
            if not self._model.experts:
                return

    def _free(self, division: Sequence[int], output: int) -> list[int]:
        """What each device has left for experts: negative where the blocks themselves don't fit."""
        bare = Placement(
            tuple(device for device, count in enumerate(division) for _ in range(count)), (CPU,) * sum(division), output
        )
        taken = self._costs.memory(bare)
        experts = sum(layer.experts.bytes for layer in self._model.layers)
        free = [device.free - used for device, used in zip(self._devices, taken, strict=True)]
        free[CPU] += experts
        return free

    def _expert_orders(self) -> list[list[int]]:
        """Orders in which devices are filled with experts that have no room at home."""
        fast = sorted(range(len(self._devices)), key=lambda device: -self._devices[device].bandwidth)
        return [fast, [CPU, *(device for device in fast if device != CPU)]]

    def _place_experts(self, homes: Sequence[int], free: list[int], order: Sequence[int]) -> tuple[int, ...] | None:
        """A device for each layer's experts; None where they don't fit. ``free`` is used up."""
        placed: list[int | None] = []
        for layer, home in zip(self._model.layers, homes, strict=True):
            size = layer.experts.bytes
            if size and home != CPU and size <= free[home]:
                free[home] -= size
                placed.append(home)
            else:
                placed.append(None if size else home)
        for number, device in enumerate(placed):
            if device is not None:
                continue
            size = self._model.layers[number].experts.bytes
            for candidate in order:
                buffers = 0 if candidate == CPU or candidate in homes else self._costs.buffer_bytes
                if size + buffers <= free[candidate]:
                    free[candidate] -= size
                    placed[number] = candidate
                    break
            else:
                return None
        return tuple(device for device in placed if device is not None)

    def _refusal(self) -> str:
        have = ", ".join(f"{device.name} {memory_size(device.free)}" for device in self._devices)
        caches = self._homes[-1] - sum(layer.attention.bytes + layer.feed_forward.bytes for layer in self._model.layers)
        return (
            f"the model doesn't fit into the devices' memory: its weights take {memory_size(self._model.bytes)} and "
            f"its caches {memory_size(caches)}, and free are: {have}. Serve a smaller model or format, "
            "a smaller --ctx or --kv-tokens, or add a device"
        )
