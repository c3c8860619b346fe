"""Ends an actor with its node's raylet. Ray does so, too, but may wait before for its controller, which may be gone."""

from __future__ import annotations

import os
import threading
import time

#: Seconds between two looks at the parent.
_LOOK_SECONDS = 0.1


def end_with_raylet() -> None:
    """Have this process, an actor's, end when the process that started it is gone."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="raylet tie", daemon=True).start()


def _watch(raylet: int) -> None:
    while os.getppid() == raylet:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
