"""The setting ``devices``: this machine and workers, in the order in which they get layers."""

from __future__ import annotations

from typing import NamedTuple

from tailrace.errors import ConfigurationError
from tailrace.worker_status import DEFAULT_PORT, STATUS_PORT_OFFSET

#: The name of this machine's CPU and memory.
LOCAL = "local"


class DeviceList(NamedTuple):
    """What the user wants to use."""

    local: bool  #: whether this machine takes layers, and not only what fits nowhere else
    workers: tuple[str, ...]  #: ``HOST:PORT``


def parse_devices(text: str) -> DeviceList:
    """The setting's value, ``local,HOST:PORT,...``. A worker's port may be left out. Raises ConfigurationError."""
    workers: list[str] = []
    local = False
    for part in (each.strip() for each in text.split(",")):
        if part == LOCAL:
            local = True
            continue
        host, separator, port = part.partition(":")
        valid = port.isascii() and port.isdecimal() and 0 < int(port) <= 65_535 - STATUS_PORT_OFFSET
        if not host or (separator and not valid) or any(each.isspace() for each in part):
            raise ConfigurationError(
                f"devices can't have {part!r}: write local, and for each worker its address, such as "
                f"10.0.0.2:{DEFAULT_PORT}"
            )
        endpoint = part if separator else f"{host}:{DEFAULT_PORT}"
        if endpoint in workers:
            raise ConfigurationError(f"devices names the worker {endpoint} twice")
        workers.append(endpoint)
    return DeviceList(local, tuple(workers))
