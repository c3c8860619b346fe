"""What runs of a cluster's application now, as ``tailrace cluster status`` shows it."""

from __future__ import annotations

from typing import Literal

import msgspec

from tailrace.cluster.directory_book import IngressRecord, ReplicaRecord

#: ``absent``: nothing is deployed. ``incomplete``: it serves, but some replicas are missing.
ApplicationStatus = Literal["absent", "deploying", "running", "incomplete", "failed", "deleting"]


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The application now. ``hindrances``: what keeps a model's replicas from being complete, in Ray's words."""

    status: ApplicationStatus
    message: str = ""
    hindrances: dict[str, str] = {}  #: by deployment
    replicas: tuple[ReplicaRecord, ...] = ()
    ingresses: tuple[IngressRecord, ...] = ()


def shortened(message: str) -> str:
    """Ray's message without the tracebacks in it: its first line, and the error at the end of the last traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if len(lines) < 2:
        return message.strip()
    return f"{lines[0].removesuffix('Error:').rstrip()} {lines[-1]}"
