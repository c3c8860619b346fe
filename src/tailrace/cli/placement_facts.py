"""The placement that ``serve`` would make of a model with the settings' devices, for ``doctor``. It loads nothing.

Workers are asked for their last report alone. Links aren't measured here, so their speeds are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tailrace.engine.devices.open_worker import open_worker
from tailrace.engine.devices.placement import PlannedModel, place, work_of
from tailrace.engine.devices.placement_prediction import measured_numbers, weights_by_device
from tailrace.engine.devices.rules import read_rules
from tailrace.engine.devices.worker_errors import WorkerUnavailableError
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.errors import ConfigurationError
from tailrace.machine.free_memory import available_memory
from tailrace.machine.gpu import Gpu
from tailrace.machine.placement.assumed import DeviceKind, device_of
from tailrace.machine.placement.devices import Device
from tailrace.machine.placement.reasons import reasons
from tailrace.machine.placement.search import Choice
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_header import ModelHeader, read_header
from tailrace.serving.device_list import LOCAL, planned_devices, worker_device_name
from tailrace.settings import Settings


class DevicePart(msgspec.Struct, frozen=True, kw_only=True):
    """One device's part of the model. Sizes are bytes."""

    name: str
    layers: int  #: at home there
    feeds: int  #: layers whose experts, or whose feed-forward part, are there
    weights: int
    kv: int
    buffers: int  #: and states, and logits
    left: int  #: of what a plan may use; below 0 on a CPU that has to read the file again and again
    assumed: tuple[str, ...]  #: its numbers that nothing has measured


class PlacementFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model's placement, as it is planned."""

    devices: list[DevicePart]
    has_experts: bool
    output: str  #: the device of the output matrix
    tokens: int  #: of the KV cache
    decode: float  #: tokens/s of one reply, predicted
    prompt: float  #: tokens/s, predicted
    reasons: list[str]


def placement_facts(
    path: Path,
    settings: Settings,
    gpus: Sequence[Gpu],
    bandwidth: float | None,
    free_memory: Mapping[str, int],
) -> PlacementFacts | None:
    """The placement of the model at ``path``; None where no planner divides it.

    ``bandwidth``: measured bytes a second of this machine's memory. ``free_memory``: bytes by the PCI addresses of GPUs
    that tell it. A GPU that tells nothing is left out, which the reasons say. Raises ConfigurationError and ModelError.
    """
    wanted = planned_devices(settings, has_gpu=bool(gpus))
    if wanted is None:
        return None
    header = read_header(path)
    devices, silent = [_local(bandwidth)], []
    for number, gpu in enumerate(gpus if wanted.local else ()):
        free = free_memory.get(gpu.address, gpu.memory)
        if free is None:
            silent.append(gpu)
        else:
            devices.append(device_of(f"{gpu.backends[0].upper()}{number}", "gpu", free))
    workers = _workers(wanted.workers)
    for link in workers:
        devices += _offered(link, header)
    tokens = settings.kv_tokens or settings.ctx
    plan = place(
        header,
        devices,
        read_rules(settings.placement),
        work_of(header.facts, tokens, parallel=settings.parallel, batch=settings.prefill_chunk),
        cache_types=CacheTypes(settings.cache_type_k, settings.cache_type_v),
        local=wanted.local,
        gpu_layers=settings.gpu_layers,
    )
    return _facts(plan, [*map(_silence, silent), *(_use(link) for link in workers if link.user is not None)])


def _facts(plan: PlannedModel, remarks: list[str]) -> PlacementFacts:
    parts = []
    for number, (device, (weights, kv)) in enumerate(zip(plan.devices, plan.weights_and_cache(), strict=True)):
        taken = plan.prediction.memory[number]
        parts.append(
            DevicePart(
                name=device.name,
                layers=plan.placement.layers_on(number),
                feeds=plan.feed_devices().count(number),
                weights=weights,
                kv=kv,
                buffers=max(0, taken - weights - kv),
                left=device.free - taken,
                assumed=device.assumed,
            )
        )
    choice = Choice(plan.placement, plan.prediction)
    return PlacementFacts(
        devices=parts,
        has_experts=plan.parts.has_experts,
        output=plan.devices[plan.placement.output].name,
        tokens=plan.work.cells,
        decode=1 / plan.prediction.decode_seconds,
        prompt=1 / plan.prediction.prompt_seconds,
        reasons=[*remarks, *reasons(plan.parts, plan.devices, plan.work, choice, plan.demands)],
    )


def _silence(gpu: Gpu) -> str:
    remedy = ": pip install 'tailrace[gpu]'" if gpu.vendor == "NVIDIA" else ""
    return f"The {gpu.vendor} GPU at {gpu.address} is left out, because its free memory isn't known here{remedy}."


def _local(bandwidth: float | None) -> Device:
    measured = {} if bandwidth is None else {"bandwidth": bandwidth}
    return device_of(LOCAL, "cpu", available_memory(), **measured)


def _workers(endpoints: Sequence[str]) -> list[WorkerLink]:
    """The workers' last reports, of which ``serve`` could use all. The connections are closed."""
    links: list[WorkerLink] = []
    for endpoint in endpoints:
        try:
            links.append(open_worker(endpoint, binding_version(), links))
        except WorkerUnavailableError as error:
            raise ConfigurationError(str(error)) from error
        links[-1].close()
    return links


def _use(link: WorkerLink) -> str:
    return f"The worker at {link.endpoint} is in use by {link.user}: its memory is what that one has left."


def _offered(link: WorkerLink, header: ModelHeader) -> list[Device]:
    found = []
    for number, offered in enumerate(link.status.devices):
        measured: dict[str, float] = {}
        if offered.speed is not None:
            measured = measured_numbers(offered.speed, weights_by_device(header.tensors, {}, 1)[0])
        kind: DeviceKind = "worker cpu" if offered.name == "CPU" else "worker gpu"
        name = worker_device_name(link.endpoint, number)
        found.append(device_of(name, kind, offered.free, **measured))
    return found
