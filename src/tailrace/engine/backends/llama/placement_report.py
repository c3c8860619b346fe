"""Where llama.cpp has put a model's tensors and layers, compared with the placement that was wanted.

The functions that tell it are llama.cpp's own C++, so they are found by their mangled names. Where a build hasn't got
them, the report says that nothing is known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llama_cpp.llama_cpp as llama
import msgspec

from tailrace.engine.backends.llama.devices import device_memory
from tailrace.engine.backends.llama.ggml_function import ggml_function, llama_function
from tailrace.engine.backends.llama.memory_use import MemoryUse, memory_use
from tailrace.engine.backends.llama.placed_model import PlacedModel
from tailrace.engine.backends.llama.upstream_repack import tensor_buffer
from tailrace.machine.placement.division import CPU
from tailrace.machine.plan_wording import memory_size
from tailrace.protocol import DeviceShare
from tailrace.serving.device_list import worker_device_name
from tailrace.serving.placement_parts import EMBEDDING
from tailrace.worker_protocol.status import WorkerStatus

#: ``const ggml_tensor * llama_model::get_tensor(const char *) const``.
_GET_TENSOR = "_ZNK11llama_model10get_tensorEPKc"
#: ``ggml_backend_dev_t llama_model::dev_layer(int) const``.
_DEV_LAYER = "_ZNK11llama_model9dev_layerEi"
#: How much larger than planned a device's cache may be: recurrent states and padding aren't planned.
_CACHE_EXCESS, _CACHE_SPARE = 1.25, 64 << 20
#: Differences of a kind that are listed one by one.
_MAX_LISTED = 10


class PlacementReport(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors that llama.cpp has loaded, and where."""

    devices: tuple[DeviceShare, ...]
    differences: tuple[str, ...]  #: from the placement; the first ones of each kind
    is_known: bool  #: whether llama.cpp has reported it


def report_placement(model: llama.llama_model_p, placed: PlacedModel) -> PlacementReport:
    """Ask llama.cpp for each tensor's and each layer's device."""
    homes, tensors = _found_homes(model, placed), _found_tensors(model, placed)
    is_known = homes is not None and tensors is not None
    homes = list(placed.placement.homes) if homes is None else homes
    tensors = dict(placed.plan.tensors) if tensors is None else tensors
    names = [device.name for device in placed.plan.devices]
    differences = [
        f"layer {layer} is on {names[found]}, planned was {names[wanted]}"
        for layer, (found, wanted) in enumerate(zip(homes, placed.placement.homes, strict=True))
        if found != wanted
    ][:_MAX_LISTED]
    differences += [
        f"{name} is on {names[found]}, planned was {names[placed.plan.tensors[name]]}"
        for name, found in tensors.items()
        if found != placed.plan.tensors[name] and _is_planned(name)
    ][:_MAX_LISTED]
    planned = placed.plan.weights_and_cache()
    reports = []
    for device, (name, handle) in enumerate(zip(names, placed.handles, strict=True)):
        memory = device_memory(handle)
        here = [tensor for tensor, at in tensors.items() if at == device]
        reports.append(
            DeviceShare(
                name=name,
                layers=homes.count(device),
                tensors=len(here),
                weights_bytes=sum(placed.plan.sizes[tensor] for tensor in here),
                kv_bytes=planned[device][1],
                free_bytes=memory.free,
                total_bytes=memory.total,
            )
        )
    return PlacementReport(devices=tuple(reports), differences=tuple(differences), is_known=is_known)


def with_memory(
    report: PlacementReport, context: llama.llama_context_p, placed: PlacedModel, expected_cache: int
) -> PlacementReport:
    """The report with what the opened context takes of each device's memory.

    ``expected_cache``: bytes of the whole KV cache, of which each layer's home has the same part. A device whose cache
    is much larger is a difference.
    """
    uses = memory_use(context)
    if uses is None:
        return report
    by_number: dict[int, list[MemoryUse]] = {}
    for handle, use in uses.items():
        by_number.setdefault(_number(handle, placed), []).append(use)
    shares, differences = [], list(report.differences)
    layers = max(1, sum(share.layers for share in report.devices))
    for device, share in enumerate(report.devices):
        here = by_number.get(device, [])
        cache = sum(use.cache for use in here)
        homes = 0 if placed.placement.kv_is_local and device != CPU else share.layers
        planned = expected_cache * (layers if placed.placement.kv_is_local and device == CPU else homes) // layers
        if cache > _CACHE_EXCESS * planned + _CACHE_SPARE:
            differences.append(
                f"the KV cache on {share.name} takes {memory_size(cache)}, planned were {memory_size(planned)}"
            )
        shares.append(msgspec.structs.replace(share, cache_bytes=cache, compute_bytes=sum(use.compute for use in here)))
    return msgspec.structs.replace(report, devices=tuple(shares), differences=tuple(differences))


def with_worker_memory(report: PlacementReport, statuses: Mapping[str, WorkerStatus]) -> PlacementReport:
    """The report with the free memory that the workers have last reported of their devices. ``statuses``: by their
    addresses.
    """
    free = {
        worker_device_name(endpoint, number): offered.free
        for endpoint, status in statuses.items()
        for number, offered in enumerate(status.devices)
    }
    shares = tuple(
        msgspec.structs.replace(share, free_bytes=min(share.free_bytes, free.get(share.name, share.free_bytes)))
        for share in report.devices
    )
    return msgspec.structs.replace(report, devices=shares)


def _is_planned(name: str) -> bool:
    """Whether the tensor's device is known before. A norm beside the layers is at the input or at the output: the
    architectures differ, and it is small.
    """
    return name.startswith("blk.") or name == "output.weight"


def _found_homes(model: llama.llama_model_p, placed: PlacedModel) -> list[int] | None:
    device_of = llama_function(_DEV_LAYER, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    if device_of is None:
        return None
    return [_number(device_of(model, layer), placed) for layer in range(len(placed.placement.homes))]


def _found_tensors(model: llama.llama_model_p, placed: PlacedModel) -> dict[str, int] | None:
    """The device of each tensor that llama.cpp has loaded."""
    get = llama_function(_GET_TENSOR, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    if get is None:
        return None
    type_of = ggml_function("ggml_backend_buffer_get_type", ctypes.c_void_p, ctypes.c_void_p)
    device_of = ggml_function("ggml_backend_buft_get_device", ctypes.c_void_p, ctypes.c_void_p)
    found = {}
    tied = placed.plan.is_tied
    for name in placed.plan.tensors:
        # Of two tensors with one name llama.cpp finds only one, and it doesn't load all tensors of a file.
        if (name == EMBEDDING and tied) or not (tensor := get(model, name.encode())):
            continue
        if buffer := tensor_buffer(tensor):
            found[name] = _number(device_of(type_of(buffer)), placed)
    return found


def _number(handle: int | None, placed: PlacedModel) -> int:
    return placed.handles.index(handle) if handle in placed.handles else CPU
