"""pip in a process that ends with its parent: ``python -m tailrace.models.pip_process PARENT ARGUMENT...``.

A download that hangs would otherwise go on after the server that started it.
"""

from __future__ import annotations

import os
import runpy
import sys

from tailrace.own_process.parent_death import die_with_parent


def main() -> None:
    """Run pip with the arguments behind the parent's process id."""
    parent, *arguments = sys.argv[1:]
    die_with_parent()
    # A parent that died before that has another process id.
    if os.getppid() != int(parent):
        raise SystemExit("the process that wanted a download has died")
    sys.argv = ["pip", *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
