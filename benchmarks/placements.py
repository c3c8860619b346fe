"""The planner's placements of real shapes on usual machines, beside the best that trying placements finds:
``python -m benchmarks.placements``. Nothing is measured: the machines are simulated (``benchmarks.placement``).
"""

from __future__ import annotations

from benchmarks.placement.every_placement import EveryPlacement
from benchmarks.placement.machines import GB, MACHINES, machine
from benchmarks.placement.shapes import SHAPES, parts_of
from benchmarks.placement.simulated_machine import SimulatedMachine
from tailrace.errors import ConfigurationError
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.search import best_placement

#: One context, as a single user has it.
WORK = Work(cells=16384)


def main() -> None:
    """Print a table as Markdown."""
    print("| shape | RAM + GPUs | layers on GPUs | feeds on GPUs | free GB | decode | prompt | time ÷ best |")
    print("|---|---|---|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        model = parts_of(shape)
        for memory, gpus in MACHINES:
            devices = machine(memory, gpus)
            simulated = SimulatedMachine(model, devices, WORK)
            try:
                choice = best_placement(model, devices, WORK)
            except ConfigurationError:
                continue
            best = EveryPlacement(simulated).best()
            ratio = "" if best is None else f"{simulated.seconds(choice.placement) / best[0]:.2f}"
            found = choice.prediction
            print(
                f"| {name} | {memory} + {' + '.join(map(str, gpus))} | {_counts(choice.placement.homes, devices)} | "
                f"{_counts(choice.placement.feeds, devices)} | {_free(found.memory, devices)} | "
                f"{1 / found.decode_seconds:.1f} | {1 / found.prompt_seconds:.0f} | {ratio} |"
            )


def _counts(devices_of_layers: tuple[int, ...], devices: list[Device]) -> str:
    on_gpus = [devices_of_layers.count(number) for number in range(1, len(devices))]
    return f"{' + '.join(map(str, on_gpus))} of {len(devices_of_layers)}"


def _free(memory: tuple[int, ...], devices: list[Device]) -> str:
    left = [device.free - taken for device, taken in zip(devices, memory, strict=True)]
    return " + ".join(f"{each / GB:.1f}" for each in left)


if __name__ == "__main__":
    main()
