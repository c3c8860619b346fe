"""The scheduling priority of a thread. Only Linux has priorities of threads."""

from __future__ import annotations

import contextlib
import os

#: A thread with this niceness gets a quarter of an equal share of a core that the model also wants. With less it could
#: hold the interpreter's lock for long, where other processes keep all cores busy.
LOW = 6


def lower_priority(thread: int) -> None:
    """Give a thread of this process low priority. ``thread``: its id in the kernel (``threading.get_native_id``)."""
    with contextlib.suppress(OSError, AttributeError):  # The thread may have ended; other systems have no such call.
        os.setpriority(os.PRIO_PROCESS, thread, LOW)
