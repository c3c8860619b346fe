"""Keeps the port that Serve opens in each of its actors on the loopback address.

It is for calls between deployments, of which there are none here. Serve would open it at all addresses of the node, and
what comes there is unpickled.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private import replica


def close() -> None:
    """Do it for this process, before Serve opens the port."""
    original = replica.add_port_to_grpc_server  # type: ignore[attr-defined]

    def add_port(server: Any, address: str) -> int:
        return int(
            original(  # type: ignore[no-untyped-call]
                server, address.replace("[::]", "127.0.0.1")
            )
        )

    replica.add_port_to_grpc_server = add_port  # type: ignore[attr-defined]
