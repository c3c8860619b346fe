"""Runs a command that ends when the process that started this one does: ``python -m ... PARENT COMMAND...``.

The tie (PR_SET_PDEATHSIG) outlasts exec(2), so the command gets this process and need not know of its parent.
"""

from __future__ import annotations

import os
import sys

from tailrace.own_process.parent_death import die_with_parent


def main() -> None:
    """Tie this process to the parent whose id is the first argument, and become the command."""
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        raise SystemExit("the parent died while this process was starting")
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
