"""The setting ``devices``: this machine and workers, in the order in which they get layers."""

from __future__ import annotations

import contextlib
import re
from typing import NamedTuple

from tailrace.errors import ConfigurationError
from tailrace.settings import Settings
from tailrace.worker_protocol.status import DEFAULT_PORT, MAX_PORT, parse_port

#: The name of this machine's CPU and memory.
LOCAL = "local"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


class DeviceList(NamedTuple):
    """The devices that the user wants to use."""

    local: bool  #: whether this machine takes layers, and not only what fits nowhere else
    workers: tuple[str, ...]  #: ``HOST:PORT``


def planned_devices(settings: Settings, *, has_gpu: bool) -> DeviceList | None:
    """The devices that the planner divides a model between: the setting's, or this machine with its GPU.

    ``has_gpu``: there is one with memory of its own. None: the CPU computes all, or llama.cpp divides the model, where
    settings say how. Raises ConfigurationError.
    """
    if settings.devices is not None:
        return parse_devices(settings.devices)
    divides = settings.split_mode != "layer" or settings.tensor_split is not None or settings.main_gpu != 0
    return DeviceList(local=True, workers=()) if has_gpu and settings.gpu_layers != 0 and not divides else None


def worker_device_name(endpoint: str, number: int) -> str:
    """The name of a worker's device in rules and reports: the first one has the worker's."""
    return endpoint if number == 0 else f"{endpoint}/{number}"


def device_key(text: str) -> str:
    """The setting's value in the one form by which placements are remembered. Raises ConfigurationError."""
    found = parse_devices(text)
    return ",".join([*([LOCAL] if found.local else []), *found.workers])


def worker_addresses(settings: Settings) -> frozenset[str]:
    """The workers that an engine with these settings claims, for the model and for its draft model. What can't be read
    names none here: the engine reports it.
    """
    lists = [settings.devices, settings.draft_devices if settings.speculate == "draft" else None]
    found: set[str] = set()
    for text in lists:
        if text is not None:
            with contextlib.suppress(ConfigurationError):
                found.update(parse_devices(text).workers)
    return frozenset(found)


def parse_devices(text: str) -> DeviceList:
    """The setting's value, ``local,HOST:PORT,...``. A worker's port may be left out. Raises ConfigurationError."""
    workers: list[str] = []
    local = False
    for part in (each.strip() for each in text.split(",")):
        if part.lower() == LOCAL:
            if local:
                raise ConfigurationError(f"devices names {LOCAL} twice")
            local = True
            continue
        host, separator, port_text = part.partition(":")
        port = parse_port(port_text) if separator else DEFAULT_PORT
        if not port or not _HOST.fullmatch(host):
            raise ConfigurationError(
                f"devices can't have {part!r}: write {LOCAL}, and for each worker its IPv4 address or its name "
                f"(llama.cpp's RPC has no IPv6), and its port up to {MAX_PORT}, such as 10.0.0.2:{DEFAULT_PORT}"
            )
        endpoint = f"{host.lower()}:{port}"
        if endpoint in workers:
            raise ConfigurationError(f"devices names the worker {endpoint} twice")
        workers.append(endpoint)
    return DeviceList(local, tuple(workers))
