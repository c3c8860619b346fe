"""Says why a placement is the best one: what limits its speed, and what more memory would change."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tailrace.errors import ConfigurationError
from tailrace.machine.placement.cost import CostModel
from tailrace.machine.placement.demands import ANYTHING, Demands
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU
from tailrace.machine.placement.parts import ModelParts
from tailrace.machine.placement.search import Choice, best_placement
from tailrace.machine.plan_wording import memory_size

#: Bytes more that the question "what would change" is about.
_MORE = 8_000_000_000
#: A speed that is less than this much higher is no change.
_WORTH = 1.02


def reasons(
    model: ModelParts, devices: Sequence[Device], work: Work, choice: Choice, demands: Demands = ANYTHING
) -> list[str]:
    """Sentences for the user, the most important one first."""
    decode = CostModel(model, devices, work, kv_is_local=demands.kv_is_local).decode
    placement = choice.placement
    busy, read = decode.busy(placement), decode.read(placement)
    slowest = max(range(len(devices)), key=lambda number: busy[number])
    total = choice.prediction.decode_seconds
    found = [
        f"Of a token's {1000 * total:.1f} ms {devices[slowest].name} takes {100 * busy[slowest] / total:.0f} %: "
        f"it reads {memory_size(read[slowest])} for each."
    ]
    used = {placement.output, *placement.homes, *placement.feeds}
    idle = [device.name for number, device in enumerate(devices) if number not in used and number != CPU]
    if idle:
        found.append(f"{' and '.join(idle)} would make a token slower, so nothing is there.")
    found.append(_with_more(model, devices, work, choice, demands))
    return found


def _with_more(model: ModelParts, devices: Sequence[Device], work: Work, choice: Choice, demands: Demands) -> str:
    best, where = choice.prediction.decode_seconds, ""
    for number, device in enumerate(devices):
        larger = [*devices]
        larger[number] = msgspec.structs.replace(device, free=device.free + _MORE)
        try:
            seconds = best_placement(model, larger, work, demands).prediction.decode_seconds
        except ConfigurationError:
            continue
        if seconds * _WORTH < best:
            best, where = seconds, device.name
    if not where:
        return f"{memory_size(_MORE)} more memory on any device would change nothing."
    return f"With {memory_size(_MORE)} more on {where} it would decode {1 / best:.1f} tokens/s."
