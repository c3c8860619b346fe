"""The address at which other nodes reach this one."""

from __future__ import annotations

import ray


def node_address() -> str:
    """The node's IP address as the cluster knows it: 127.0.0.1 in a cluster that is on this machine alone."""
    own = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return next(str(node["NodeManagerAddress"]) for node in nodes if node["NodeID"] == own)
