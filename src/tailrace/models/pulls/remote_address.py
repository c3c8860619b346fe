"""Which addresses a redirect may lead to.

A server on the internet that redirects a download to an address of this machine or this network would have the request
made from inside. A server of this network may redirect within it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from enum import IntEnum


class Reach(IntEnum):
    """How near an address is; a redirect may not lead nearer than the server that was named."""

    INTERNET = 0
    NETWORK = 1
    MACHINE = 2
    LINK = 3  #: link-local, where clouds have their servers of credentials


#: IPv6 addresses of IPv4 ones, by which networks without IPv4 reach them (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

#: The addresses of a host's name. Raises OSError where there are none.
Resolve = Callable[[str], list[str]]


def resolve(host: str) -> list[str]:
    """The addresses that this machine knows for a name or for an address as text. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def reach_of(address: str) -> Reach:
    """How near a numeric address is. IPv4 addresses inside of IPv6 ones count as themselves."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF) if parsed in _NAT64 else None
        parsed = inner or parsed.ipv4_mapped or parsed.sixtofour or parsed
    if parsed.is_link_local:
        return Reach.LINK
    if parsed.is_loopback or parsed.is_unspecified:
        return Reach.MACHINE
    return Reach.INTERNET if parsed.is_global and not parsed.is_multicast else Reach.NETWORK


def nearest(host: str, resolve: Resolve) -> Reach:
    """How near the nearest address of a host is. Raises OSError where the name has none."""
    return max((reach_of(address) for address in resolve(host)), default=Reach.INTERNET)


def nearest_by_name(host: str) -> Reach:
    """The same without a lookup, where a proxy makes the connections and resolves names itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return Reach.MACHINE
    try:
        return reach_of(host)
    except ValueError:
        return Reach.INTERNET
