"""Loads models on workers into the tests' own process, where a lost worker doesn't end it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servers import PATIENCE
from tailrace.engine.backends.create_llama import create_llama
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL, Settings
from tailrace.worker_protocol.status import WorkerStatus


def load_placed(
    endpoints: Sequence[str],
    *,
    model: Path | None = None,
    local: bool = True,
    log: Any = None,
    shares: bool = False,
    **settings: Any,
) -> LlamaBackend:
    """The model (the starter model by default) on this machine and the workers at ``endpoints``. ``shares``: this
    process uses these workers already.

    The last half of its layers is on workers where nothing else says it: a worker on the same machine is never faster.
    """
    usual: dict[str, Any] = {"threads": 2, "ctx": 1024, "parallel": 4}
    if local and "placement" not in settings:
        usual["gpu_layers"] = 15
    path = locate_model(STARTER_MODEL).path if model is None else model
    workers = {endpoint: free_status(endpoint, shares=shares) for endpoint in endpoints}
    devices = ",".join([*(["local"] if local else []), *endpoints])
    return create_llama(path, Settings(**{**usual, "devices": devices, **settings}), workers=workers, log=log)


def free_status(endpoint: str, *, shares: bool = False) -> WorkerStatus:
    """The worker's report, once the engine before has gone. ``shares``: that is this process, and stays."""
    with contextlib.closing(WorkerLink(endpoint)) as link:
        deadline = time.monotonic() + PATIENCE
        while link.status.client is not None and not shares:
            assert time.monotonic() < deadline, f"{endpoint} is still in use by {link.status.client}"
            link.next_status()
        return link.status
