"""Whether the process of a sandbox has died. It starts and ends none."""

from __future__ import annotations

import subprocess

#: Seconds to wait for the exit status of a process that seems to be dead.
_END_SECONDS = 0.1


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has died. Its sockets close a little before its exit status can be had."""
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
