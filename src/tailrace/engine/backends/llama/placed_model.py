"""A model's placement on llama.cpp's devices: opens the devices, and fills llama.cpp's parameters from the placement.

``tailrace.engine.devices.placement`` decides it. llama.cpp takes a list of devices, the number of layers on them, each
device's part of these, and single tensors by their names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.llama import devices
from tailrace.engine.backends.llama.kernel_assignment import tensor_bytes
from tailrace.engine.devices.device_list import LOCAL, DeviceList
from tailrace.engine.devices.placement import CPU, EMBEDDING, ModelSizes, Placement, Space, home_of, place, smaller
from tailrace.engine.devices.rules import PlacementRules
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_header import ModelHeader, read_header
from tailrace.worker_status import WorkerStatus

#: Part of a device's memory that is left beside the weights which its layers' KV cache may take.
_KV_PART = 0.5


@dataclass(frozen=True)
class PlacedModel:
    """A model's placement, and the devices that it is on. The first device is the CPU."""

    handles: tuple[int, ...]  #: llama.cpp's
    spaces: tuple[Space, ...]
    sizes: ModelSizes
    placement: Placement

    @property
    def used(self) -> list[int]:
        """The devices beside the CPU that have a part of the model, in the order of their layers."""
        homes = dict.fromkeys(home for home in self.placement.homes if home != CPU)
        return list(homes | dict.fromkeys(each for each in self.placement.tensors.values() if each != CPU))

    def is_on_cpu(self, name: str) -> bool:
        """Whether the CPU computes with the tensor of this name."""
        return self.placement.tensors.get(name, CPU) == CPU

    @property
    def local_bytes(self) -> int:
        """Bytes of the weights that the CPU computes with."""
        return sum(size for name, size in self.sizes.tensors.items() if self.is_on_cpu(name))

    def max_cells(self, bytes_per_cell: int) -> int | None:
        """Cells that the devices' memory has for the KV cache; None where the CPU has all of it."""
        if self.placement.attends_on_cpu:
            return None
        weights = [0] * len(self.spaces)
        for name, device in self.placement.tensors.items():
            weights[device] += self.sizes.tensors[name]
        found = []
        for device in self.used:
            if layers := self.placement.layers_on(device):
                left = max(0, self.spaces[device].free - weights[device])
                found.append(int(_KV_PART * left * len(self.placement.homes) / (layers * bytes_per_cell)))
        return min(found)

    def smaller(self, told: str) -> PlacedModel | None:
        """The model with fewer layers on the devices that ``told``, llama.cpp's errors, names; on all, where it names
        none. None: there is no smaller placement.
        """
        named = [
            device
            for device in self.used
            if devices.buffer_type_name(devices.buffer_type(self.handles[device])) in told
        ]
        placement = smaller(self.placement, self.sizes, named or self.used)
        return None if placement is None else replace(self, placement=placement)


def place_model(
    path: Path,
    wanted: DeviceList,
    statuses: Mapping[str, WorkerStatus],
    rules: PlacementRules,
    *,
    gpu_layers: int,
    context: int,
    cache_types: CacheTypes,
) -> PlacedModel:
    """The placement of the model at ``path``. The workers have been asked: ``statuses`` has their reports.

    ``context``: tokens of the KV cache that each layer's home must have; 0: what the model was trained for. Raises
    ConfigurationError and ModelError.
    """
    handles, spaces = _open(wanted, statuses)
    sizes = model_sizes(read_header(path), context, cache_types)
    placement = place(sizes, spaces, rules, local=wanted.local, gpu_layers=gpu_layers)
    return PlacedModel(tuple(handles), tuple(spaces), sizes, placement)


def _open(wanted: DeviceList, statuses: Mapping[str, WorkerStatus]) -> tuple[list[int], list[Space]]:
    cpu = devices.cpu_device()
    handles, spaces = [cpu], [Space(LOCAL, devices.device_memory(cpu).free)]
    for handle in devices.local_gpus() if wanted.local else []:
        handles.append(handle)
        spaces.append(Space(devices.device_name(handle), devices.device_memory(handle).free))
    for endpoint in wanted.workers:
        offered = statuses[endpoint].devices
        for number, handle in enumerate(devices.worker_devices(endpoint)):
            free = devices.device_memory(handle).free
            if number < len(offered):
                free = min(free, offered[number].free)
            handles.append(handle)
            spaces.append(Space(endpoint if number == 0 else f"{endpoint}/{number}", free))
    return handles, spaces


def model_sizes(header: ModelHeader, context: int, cache_types: CacheTypes) -> ModelSizes:
    """What a placement needs to know of the model."""
    layers = header.values.get(f"{header.facts.architecture}.block_count")
    count = layers if isinstance(layers, int) and 0 < layers < 100_000 else 0
    tokens = context or header.facts.context or 0
    # Of a hybrid model, whose cache is in some layers alone, this is the mean.
    kv = header.facts.kv.token_bytes(cache_types) * tokens // max(1, count) if header.facts.kv else 0
    return ModelSizes({tensor.name: tensor_bytes(tensor) for tensor in header.tensors}, count, kv)


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
        placed = self._placed
        homes = placed.placement.homes
        last = homes[-1] if homes else CPU
        types = [devices.buffer_type(handle) for handle in placed.handles]
        tied = "output.weight" not in placed.sizes.tensors
        found: list[tuple[str, int | None]] = []
        for name in names:
            device = placed.placement.tensors.get(name, CPU)
            if name == EMBEDDING and tied:
                # One name for two tensors: the embedding, which is here, and the output with the last layer.
                found.append((name, None if device == last else types[CPU]))
            elif device == CPU and own.get(name) is not None:
                found.append((name, own[name]))
            else:
                found.append((name, None if device == home_of(name, homes, last, placed.sizes) else types[device]))
        return found
