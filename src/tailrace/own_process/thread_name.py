"""The name of a thread as the kernel's tools show it: ``ps -L``, ``top -H``, ``/proc/PID/task/TID/comm``.

A thread that native code makes has the name of the thread that has made it. So compute threads are those with the name
of the process's main thread.
"""

from __future__ import annotations

import ctypes
import sys

_PR_SET_NAME = 15
#: Bytes of a name that the kernel keeps.
_MAX_BYTES = 15


def name_thread(name: str) -> None:
    """Give this thread a name, of at most 15 bytes. Without effect on other systems than Linux.

    Python names its own threads from 3.14 on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:_MAX_BYTES]), 0, 0, 0)
