"""Finds the address of a worker's host, within bounds: a name server may be silent, and a name may lead anywhere."""

from __future__ import annotations

import ipaddress
import socket
import threading

from tailrace.engine.devices.worker_errors import WorkerUnavailableError
from tailrace.errors import ConfigurationError
from tailrace.worker_protocol.networks import is_private

#: Seconds in which a name has to be found. The C library may take a minute where no name server answers.
_LOOKUP_SECONDS = 5.0


def find_address(host: str) -> str:
    """The IPv4 address of ``host``, a name or an address.

    Raises WorkerUnavailableError where the name isn't known, and ConfigurationError where no worker can be: on a public
    network, where prompts and weights would travel unencrypted.
    """
    address = ipaddress.IPv4Address(_look_up(host))
    if not address.is_loopback and not is_private(address):
        raise ConfigurationError(
            f"devices has the worker {host}{'' if str(address) == host else f' ({address})'}, which isn't on a private "
            "network: all that is computed there would go over the network unencrypted. Connect through an ssh or "
            "WireGuard tunnel, and name its address"
        )
    return str(address)


def _look_up(host: str) -> str:
    found: list[str] = []
    failures: list[str] = []

    def look_up() -> None:
        try:
            found.extend(str(each[4][0]) for each in socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            failures.append(error.strerror or str(error))
        except UnicodeError:  # A label of a name has 63 characters at most.
            failures.append("it is no host's name")

    # The C library's call has no limit of time, and no other end.
    thread = threading.Thread(target=look_up, name="tailrace-names", daemon=True)
    thread.start()
    thread.join(_LOOKUP_SECONDS)
    if found:
        return found[0]
    reason = failures[0] if failures else f"no name server answers within {_LOOKUP_SECONDS:g} s"
    raise WorkerUnavailableError(
        f"devices has a worker at {host}, and this host isn't found: {reason}. Write its IPv4 address"
    )
