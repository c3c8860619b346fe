"""A model's placement on llama.cpp's devices: opens the devices, and fills llama.cpp's parameters from the placement.

``tailrace.engine.devices.placement`` decides it. llama.cpp takes a list of devices, the number of layers on them, each
device's part of these, and single tensors by their names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import msgspec

from tailrace.engine.backends.llama import devices
from tailrace.engine.backends.llama.prediction_layers import without_prediction_layers
from tailrace.engine.devices.placement import PlannedModel, place
from tailrace.engine.devices.placement_prediction import MeasuredSpeed, devices_of, weights_by_device
from tailrace.engine.devices.rules import PlacementRules
from tailrace.engine.devices.tensor_homes import home_of
from tailrace.engine.kernels import loader
from tailrace.machine.placement.assumed import device_of
from tailrace.machine.placement.devices import Device, Work
from tailrace.machine.placement.division import CPU, Placement
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_header import read_header
from tailrace.serving.device_list import LOCAL, DeviceList, worker_device_name
from tailrace.serving.placement_parts import EMBEDDING
from tailrace.worker_protocol.status import WorkerStatus

#: Part of a device's memory that is left beside the planned placement which more cells of the KV cache may take.
_KV_PART = 0.5


@dataclass(frozen=True)
class PlacedModel:
    """A model's placement, and llama.cpp's handles of the devices that it is on. The first device is the CPU."""

    handles: tuple[int, ...]
    plan: PlannedModel

    @property
    def placement(self) -> Placement:
        """The device of each part."""
        return self.plan.placement

    @property
    def used(self) -> list[int]:
        """The devices beside the CPU that have a part of the model, in the order of their layers."""
        return self.plan.used

    def is_on_cpu(self, name: str) -> bool:
        """Whether the CPU computes with the tensor of this name."""
        return self.plan.tensors.get(name, CPU) == CPU

    @property
    def local_bytes(self) -> int:
        """Bytes of the weights that the CPU computes with."""
        return sum(size for name, size in self.plan.sizes.items() if self.is_on_cpu(name))

    def max_cells(self) -> int | None:
        """Cells that the devices' memory has for the KV cache; None where the CPU has all of it."""
        if self.placement.attends_on_cpu:
            return None
        planned = self.plan.work.cells
        found = []
        caches = [cache for _, cache in self.plan.weights_and_cache()]
        for device in self.used:
            if caches[device]:
                left = max(0, self.plan.devices[device].free - self.plan.prediction.memory[device])
                found.append(planned + int(_KV_PART * left * planned / caches[device]))
        return min(found, default=None)

    def smaller(self, errors: str) -> PlacedModel | None:
        """The next smaller placement on the devices that ``errors``, llama.cpp's own, names; on all, where it names
        none. None: there is no smaller placement.
        """
        named = [
            device
            for device in self.used
            if devices.buffer_type_name(devices.buffer_type(self.handles[device])) in errors
        ]
        plan = self.plan.smaller(named or self.used)
        return None if plan is None else replace(self, plan=plan)


class OpenDevices(NamedTuple):
    """llama.cpp's handles of devices, and what the planner knows of them. The CPU comes first."""

    handles: list[int]
    devices: list[Device]


def place_model(
    path: Path,
    opened: OpenDevices,
    measured: Sequence[MeasuredSpeed] | None,
    rules: PlacementRules,
    *,
    local: bool,
    gpu_layers: int,
    work: Work,
    cache_types: CacheTypes,
    predicts: bool = False,
) -> PlacedModel:
    """The placement of the model at ``path``. ``measured``: the devices' speeds; None: assumed ones.

    ``predicts``: prediction layers are loaded. Raises ConfigurationError and ModelError.
    """
    header, found = read_header(path), opened.devices
    if not predicts:
        loaded = without_prediction_layers(header.values, header.tensors)
        header = msgspec.structs.replace(header, tensors=tuple(loaded))
    if measured is not None:
        # Where a tensor will be isn't known yet: each device's speed is that with all of them.
        found = list(devices_of(found, measured, weights_by_device(header.tensors, {}, len(found))))
    plan = place(header, found, rules, work, cache_types=cache_types, local=local, gpu_layers=gpu_layers)
    return PlacedModel(tuple(opened.handles), plan)


def open_devices(wanted: DeviceList, statuses: Mapping[str, WorkerStatus]) -> OpenDevices:
    """Open the devices. The workers have been asked: ``statuses`` has their reports. Raises ConfigurationError."""
    cpu = devices.cpu_device()
    handles, found = [cpu], [device_of(LOCAL, "cpu", devices.device_memory(cpu).free)]
    for handle in devices.local_gpus() if wanted.local else []:
        handles.append(handle)
        found.append(device_of(devices.device_name(handle), "gpu", devices.device_memory(handle).free))
    for endpoint in wanted.workers:
        offered = statuses[endpoint].devices
        loader.send_mask_runs(endpoint, on=statuses[endpoint].reads_mask_runs)
        for number, handle in enumerate(devices.worker_devices(endpoint)):
            free = devices.device_memory(handle).free
            is_gpu = False
            if number < len(offered):
                free = min(free, offered[number].free)
                is_gpu = offered[number].name != "CPU"
            handles.append(handle)
            name = worker_device_name(endpoint, number)
            found.append(device_of(name, "worker gpu" if is_gpu else "worker cpu", free))
    return OpenDevices(handles, found)


class PlacementParams:
    """llama.cpp's parameters for a placement, with the arrays that they point to."""

    def __init__(self, placed: PlacedModel, params: llama.llama_model_params) -> None:
        """Fill ``params``."""
        self._placed = placed
        used, homes = placed.used, placed.placement.homes
        # A null ends the list.
        self._devices = (ctypes.c_void_p * (len(used) + 1))(*(placed.handles[device] for device in used))
        counts = [homes.count(device) for device in used]
        on_devices = sum(counts)
        if on_devices:
            # The output counts as a layer behind the last one. llama.cpp compares k / n with sums of these numbers
            # divided by n, both in single precision: with whole numbers each block has exactly as many layers.
            counts[used.index(homes[-1])] += 1
        self._split = (ctypes.c_float * llama.llama_max_devices())(*counts)
        params.devices = ctypes.addressof(self._devices)
        params.n_gpu_layers = on_devices + 1 if on_devices else 0
        params.split_mode = llama.LLAMA_SPLIT_MODE_LAYER
        params.tensor_split = self._split

    def buffer_types(self, own: Mapping[str, int | None], names: Iterable[str]) -> list[tuple[str, int | None]]:
        """Each tensor's buffer type where it has to be set by name; None where llama.cpp chooses the same.

        ``own``: the types that the CPU's kernels want.
        """
        plan = self._placed.plan
        homes = plan.placement.homes
        last = homes[-1] if homes else CPU
        types = [devices.buffer_type(handle) for handle in self._placed.handles]
        tied = plan.is_tied
        found: list[tuple[str, int | None]] = []
        for name in names:
            device = plan.tensors.get(name, CPU)
            if name == EMBEDDING and tied:
                # One name for two tensors: the embedding, which is here, and the output with the last layer.
                found.append((name, None if device == last else types[CPU]))
            elif device == CPU and own.get(name) is not None:
                found.append((name, own[name]))
            else:
                found.append((name, None if device == home_of(name, homes, last, is_tied=tied) else types[device]))
        return found
