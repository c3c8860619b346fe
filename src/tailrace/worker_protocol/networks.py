"""The networks on which workers listen, and on which engines look for them. llama.cpp's RPC protocol neither asks who
connects nor encrypts, so a worker is never on a public one.
"""

from __future__ import annotations

import ipaddress

#: RFC 1918, RFC 6598 (carriers and overlay networks) and RFC 3927 (link-local).
_PRIVATE = tuple(
    map(
        ipaddress.IPv4Network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
    )
)


def is_private(address: ipaddress.IPv4Address) -> bool:
    """Whether the address is one of a private network. Loopback addresses aren't."""
    return any(address in network for network in _PRIVATE)
