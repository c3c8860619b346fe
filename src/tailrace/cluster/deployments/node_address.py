"""The address at which other nodes reach this one."""

from __future__ import annotations

import ray


def node_address() -> str:
    """The node's IP address as Ray knows it: 127.0.0.1 in a cluster that is on this machine alone."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
