"""The limit of open files of this process and its children. Each connection of a client is an open file.

Distributions start programs with a soft limit of 1,024 for the sake of ``select``, which tailrace doesn't use. A
process may raise it to the hard limit by itself.
"""

from __future__ import annotations

import resource

#: Where the hard limit is infinite: the kernel's default of the largest limit that a process may have.
_CEILING = 1_048_576


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the limit that holds afterwards. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CEILING if hard == resource.RLIM_INFINITY else min(hard, _CEILING)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _CEILING if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # macOS has a further limit, which is below its infinite hard one.
    return wanted


def limit() -> int:
    """The limit that holds now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CEILING if soft == resource.RLIM_INFINITY else soft
