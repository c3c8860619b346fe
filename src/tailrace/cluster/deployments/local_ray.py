"""Starts Ray on this machine, or joins a cluster that is there.

A Ray that is started here listens on 127.0.0.1 alone, has no dashboard, and ends with this process.
"""

from __future__ import annotations

import logging
import os

import ray
import ray.exceptions
from ray._private import services

from tailrace.errors import TailraceError

#: Bytes of shared memory for Ray's objects, of which there are none here. Ray allows no fewer.
_OBJECTS = 80_000_000
_LOOPBACK = "127.0.0.1"

# Ray replaces 127.0.0.1 by the machine's address in a network, and would listen there.
services.resolve_ip_for_localhost = lambda host: host


class RayUnavailable(TailraceError):
    """Ray can't be started, or there is no cluster at the address."""


def start() -> None:
    """Start Ray on this machine. Raises RayUnavailable."""
    _quieten()
    os.environ.pop("RAY_ADDRESS", None)  # An address there would have ray.init join that cluster.
    try:
        ray.init(
            address="local",
            namespace="tailrace",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECTS,
            _node_ip_address=_LOOPBACK,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RayUnavailable(f"Ray can't be started on this machine: {error}") from error


def join(address: str) -> None:
    """Join the cluster whose head is at ``address`` (HOST:PORT, or ``auto``: the one of this machine). Raises
    RayUnavailable, also for ``auto`` where this machine has several.
    """
    _quieten()
    if address == "auto" and len(found := clusters_here()) > 1:
        raise RayUnavailable(
            f"several Ray clusters run on this machine, with their heads at {', '.join(found)}: name one with --address"
        )
    try:
        ray.init(address=address, namespace="tailrace", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RayUnavailable(
            f"no Ray cluster can be reached at {address}: {error}. Name its head with --address HOST:PORT; a cluster "
            "is started by: ray start --head. One that wants a token needs RAY_AUTH_MODE=token here, too"
        ) from error


def clusters_here() -> list[str]:
    """The heads of the clusters that have a node on this machine, as HOST:PORT."""
    return sorted(services.find_gcs_addresses())  # type: ignore[no-untyped-call]


def _quieten() -> None:
    """Ray's own lines: what matters of them is in the states that are shown."""
    for name, level in (("ray", logging.ERROR), ("ray.serve", logging.WARNING)):
        logging.getLogger(name).setLevel(level)


def leave() -> None:
    """Leave the cluster; a Ray that was started here ends."""
    ray.shutdown()
