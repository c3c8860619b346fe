"""Finds the placement with the best predicted speed that fits each device's memory and the user's demands.

``DivisionSearch`` tries the divisions of a model. The cost of prompts depends on the GPU that is used first, so there
is a search for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CostModel, Prediction
from tailrace.machine.placement.demands import ANYTHING, Demands
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.machine.placement.division_search import DivisionSearch
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.plan_wording import memory_size


class Choice(msgspec.Struct, frozen=True):
    """The chosen placement and its predicted memory and speed."""

    placement: Placement
    prediction: Prediction


def best_placement(model: ModelParts, devices: Sequence[Device], work: Work, demands: Demands = ANYTHING) -> Choice:
    """The best placement on ``devices``, of which the first is the CPU.

    Raises ConfigurationError with each device's numbers where no placement fits.
    """
    costs = CostModel(model, devices, work, kv_is_local=demands.kv_is_local)
    found = [search.best() for search in _searches(costs, model, devices, work, demands)]
    choices = [Choice(placement, costs.predict(placement)) for placement in found if placement is not None]
    fitting = [each for each in choices if _fits(each, devices)]
    if not fitting:
        raise ConfigurationError(_refusal(model, devices, costs))
    # Without a part of its own the CPU gets as little as possible.
    return min(
        fitting,
        key=lambda each: (0 if demands.local else each.prediction.memory[CPU], each.prediction.cost(work)),
    )


def _fits(choice: Choice, devices: Sequence[Device]) -> bool:
    return all(taken <= device.free for taken, device in zip(choice.prediction.memory, devices, strict=True))


def _searches(
    costs: CostModel, model: ModelParts, devices: Sequence[Device], work: Work, demands: Demands
) -> Iterator[DivisionSearch]:
    """The searches whose best placements are compared: the GPU that is used first decides the cost of prompts.

    One of them is among the CPU and workers. In one no weights are the CPU's, and so none are copied. In the others
    a GPU computes with the CPU's weights, and those before it get nothing.
    """
    order = demands.order or tuple(range(1, len(devices)))
    copiers = [device for device in order if costs.may_copy(device)]
    yield DivisionSearch(
        costs, model, devices, work, demands, order=tuple(each for each in order if each not in copiers)
    )
    if copiers and demands.device_layers is None:
        everything = msgspec.structs.replace(demands, device_layers=len(model.layers))
        yield DivisionSearch(costs, model, devices, work, everything, order=order)
    known: set[tuple[float, ...]] = set()
    for place, copier in enumerate(copiers):
        device = devices[copier]
        speeds = device.bandwidth, device.arithmetic, device.link_bandwidth, device.link_seconds, float(device.free)
        if speeds not in known:
            known.add(speeds)
            rest = tuple(each for each in order if each not in copiers[:place])
            yield DivisionSearch(costs, model, devices, work, demands, order=rest, copier=copier)


def _refusal(model: ModelParts, devices: Sequence[Device], costs: CostModel) -> str:
    have = ", ".join(f"{device.name} {memory_size(device.free)}" for device in devices)
    caches = sum(costs.kv_bytes(layer) for layer in model.layers)
    return (
        f"the model doesn't fit into the devices' memory: its weights take {memory_size(model.bytes)}, its KV cache "
        f"{memory_size(caches)} and each device's buffers {memory_size(costs.buffer_bytes)}. To be used are: {have}. "
        "Serve a smaller model or format, a smaller --ctx or --kv-tokens, or add a device"
    )
