"""The Host headers that a server without a key answers.

A page of ``evil.example`` may have its name resolve to 127.0.0.1 (DNS rebinding). The browser then takes this server
for the page's own, and no rule about origins applies. But its requests still say ``Host: evil.example``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from tailrace.errors import ConfigurationError

#: Endings of names that the public DNS doesn't have (RFC 6761, RFC 6762, ICANN's reservation of ``internal``).
_LOCAL_ENDINGS = (".localhost", ".internal")
#: The same for names that any machine of the local network may claim. The machine could then have a page rebound to
#: 127.0.0.1, so they count only where that machine can reach this server anyway.
_NETWORK_ENDINGS = (".local", ".lan", ".home.arpa", ".svc")
#: An IPv6 address with an optional port.
_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?")
#: Max Host headers whose check is remembered.
_MAX_REMEMBERED = 256


def is_loopback(host: str) -> bool:
    """Whether a server that listens on ``host`` is reached from this machine alone."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name or address in a Host header or an authority, without port, brackets, final dot and capitals."""
    if found := _BRACKETS.fullmatch(header):
        return found[1].lower()
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).rstrip(".").lower()


class AllowedHosts:
    """See the module."""

    def __init__(self, listening: str, allowed: Sequence[str], own: str | None = None) -> None:
        """``listening``: the setting ``host``; ``allowed``: names of the setting ``allowed_hosts``; ``own``: this
        machine's name, None asks the system. Raises ConfigurationError.
        """
        own = (socket.gethostname() if own is None else own).lower().rstrip(".")
        self.open = "*" in allowed
        self._beyond = not is_loopback(listening)
        self._names = {"localhost", own, f"{own.partition('.')[0]}.local", host_name(listening)}
        self._endings: tuple[str, ...] = _LOCAL_ENDINGS
        if self._beyond:
            self._endings += _NETWORK_ENDINGS
        for entry in allowed:
            name = host_name(entry)
            if name.startswith("*."):
                self._endings += (name[1:],)
            elif entry != "*" and (not name or any(character in name for character in "*/@ \t")):
                raise ConfigurationError(
                    f"allowed_hosts has {entry!r}, which is no name of a host: write llm.example.org, "
                    "*.example.org for all names below it, or * for any"
                )
            self._names.add(name)
        self._remembered: set[bytes] = set()

    def allows(self, header: bytes | None) -> bool:
        """Whether a request with this Host header is answered. Browsers always send one."""
        if not header or self.open or header in self._remembered:
            return True
        if not self._known(host_name(header.decode("latin-1").strip())):
            return False
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered.add(header)
        return True

    def _known(self, name: str) -> bool:
        if name in self._names or name.endswith(self._endings):
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            # The public DNS has no name without a dot. Services of a container network have such names.
            return self._beyond and "." not in name and name.replace("-", "").replace("_", "").isalnum()
        return True  # An address isn't looked up, so it can't be rebound.
