"""How fast this machine's devices compute: remembered, or measured now and remembered."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec
import structlog

from tailrace.engine.backends.llama.devices import device_description, device_name, is_cpu
from tailrace.engine.backends.llama.measure_device import measure_device
from tailrace.engine.devices.speed_store import SpeedKey, SpeedStore, driver
from tailrace.engine.kernels import loader
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.machine import cpulist
from tailrace.machine.topology import read_topology
from tailrace.worker_protocol.device_speed import DeviceSpeed

#: Part of its threads' time that a measurement has to have had: otherwise other programs have slowed it down.
_OWN_PART = 0.8


def device_speed(
    device: int,
    *,
    threads: int,
    formats: Iterable[str],
    experts: Iterable[str] = (),
    repacks: bool = False,
    store: SpeedStore | None = None,
) -> DeviceSpeed:
    """The speed of llama.cpp's ``device``. Formats that aren't remembered are measured; a tenth of a second for each.

    Parameters and errors are ``measure_device``'s. What was measured on a busy machine is used and not remembered.
    """
    store = store or SpeedStore()
    key = SpeedKey(
        device=f"{device_name(device)} {device_description(device)}",
        llama_cpp=binding_version(),
        kernels=loader.tier() or "",
        repacks=repacks,
        threads=threads,
        cpus=cpulist.format_cpus(read_topology().usable),
        driver=driver(),
    )
    known = store.find(key)
    missing = sorted(set(formats) - (known.products.keys() if known else set()))
    missing_experts = sorted(set(experts) - (known.experts.keys() if known else set()))
    if known is not None and not missing and not missing_experts:
        return known
    begun, used = time.monotonic(), time.process_time()
    found = measure_device(device, threads=threads, formats=missing, experts=missing_experts, repacks=repacks)
    if known is not None:
        found = msgspec.structs.replace(
            found, products=known.products | found.products, experts=known.experts | found.experts
        )
    own = time.process_time() - used
    if not is_cpu(device) or own >= _OWN_PART * threads * (time.monotonic() - begun):
        try:
            store.save(key, found)
        except OSError as error:
            structlog.get_logger().warning("the speed of a device can't be remembered", error=str(error))
    return found
