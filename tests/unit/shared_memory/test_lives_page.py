"""The supervisor's counts, as the HTTP process reads them."""

from __future__ import annotations

import os

from tailrace.shared_memory.lives_page import LivesPage
from tailrace.shared_memory.memory_file import create_page


def test_counts_are_seen_by_the_other_process_and_outlive_it() -> None:
    fd = create_page()
    supervisor = LivesPage(fd)
    supervisor.count_start(0)
    first = LivesPage(fd)
    supervisor.count_start(0)
    supervisor.count_hang(0)
    supervisor.count_start(255)
    assert (first.starts(0), first.hangs(0), first.starts(1), first.starts(255)) == (2, 1, 0, 1)
    first.close()
    second = LivesPage(fd)
    assert second.starts(0) == 2
    os.close(fd)
    assert second.hangs(0) == 1
