"""The speeds of a placed model's devices: measured or remembered here, reported by workers; and the links to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tailrace.engine.backends.llama.device_speeds import device_speed
from tailrace.engine.backends.llama.measure_device import measure_link
from tailrace.engine.backends.llama.placed_model import PlacedModel
from tailrace.engine.devices.placement_prediction import MeasuredSpeed, devices_of, predict, weights_by_device
from tailrace.engine.devices.speed_watch import Predict, PredictedSeconds
from tailrace.machine.placement.devices import Work
from tailrace.machine.placement.division import CPU
from tailrace.models.model_header import read_header
from tailrace.serving.device_list import DeviceList
from tailrace.worker_protocol.status import WorkerStatus


def measure_devices(
    path: Path,
    handles: Sequence[int],
    wanted: DeviceList,
    statuses: Mapping[str, WorkerStatus],
    *,
    threads: int,
    repacks: bool,
) -> tuple[MeasuredSpeed, ...] | None:
    """What is measured of each of the devices, in their order; None where a worker hasn't reported its speed.

    ``threads``: of this machine's CPU. ``repacks``: whether its kernels repack the weights. Raises ModelError where a
    device can't compute.
    """
    weights = weights_by_device(read_header(path).tensors, {}, 1)[CPU]
    reported = [device.speed for endpoint in wanted.workers for device in statuses[endpoint].devices]
    local = len(handles) - len(reported)
    found = []
    for number, handle in enumerate(handles):
        speed = (
            device_speed(
                handle,
                threads=threads,
                formats=weights.others,
                experts=weights.experts,
                repacks=repacks and number == CPU,
            )
            if number < local
            else reported[number - local]
        )
        if speed is None:
            return None
        link = None if number == CPU else measure_link(handle, handles[CPU], threads=threads)
        found.append(MeasuredSpeed(speed, link))
    return tuple(found)


def prediction(path: Path, placed: PlacedModel, measured: tuple[MeasuredSpeed, ...], pass_tokens: int) -> Predict:
    """The prediction of a placement's speed, by the tokens behind which it decodes. Raises ModelError.

    ``pass_tokens``: prompt tokens of a pass.
    """
    plan = placed.plan
    weights = weights_by_device(read_header(path).tensors, plan.tensors, len(plan.devices))
    devices = devices_of(plan.devices, measured, weights)

    def seconds(depth: int) -> PredictedSeconds:
        return predict(plan.parts, devices, plan.placement, Work(cells=depth, depth=depth, pass_tokens=pass_tokens))

    return seconds
