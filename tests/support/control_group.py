"""A control group of the kernel with one limit, version 1 or 2, for the processes of a test."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


@contextlib.contextmanager
def control_group(controller: str, limits: Mapping[str, str]) -> Iterator[Path]:
    """The folder of a new group. ``limits``: the limit's file in each version, and what is written there. Without the
    right to make one, the test is skipped.
    """
    for root in (Path("/sys/fs/cgroup") / controller, Path("/sys/fs/cgroup")):
        if not (root / "cgroup.procs").exists():
            continue
        group = root / f"tailrace-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            name = next((name for name in limits if (group / name).exists()), None)
            if name is None:
                continue
            (group / name).write_text(limits[name])
            yield group
            return
        finally:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (root / "cgroup.procs").write_text(pid)
            group.rmdir()
    pytest.skip(f"no control group of the controller {controller} can be made here")
