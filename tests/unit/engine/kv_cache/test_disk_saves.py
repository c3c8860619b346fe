"""Saving a cache's states to the disk when an engine ends: which are written, and what is left where that fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from disk_states import Tier, random_state, savable, tokens_from
from tailrace.engine.kv_cache.state_file import PART, read_head, write_state
from tailrace.engine.kv_cache.state_index import pack


def test_a_save_keeps_the_most_recently_used_states_that_the_limit_allows(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit=7000)
    tier.tier.write(tokens_from(5000), random_state(5))
    assert tier.tier.close()
    saved = tier.tier.save([savable(1000), savable(2000), savable(3000)], deadline=time.monotonic() + 60)
    assert saved == (2, 2 * 3480)
    again = Tier(tmp_path, limit=7000)
    found = [again.tier.find(tokens_from(start)) is not None for start in (1000, 2000, 3000, 5000)]
    assert found == [True, True, False, False]
    # The most recently used one is the last to leave.
    again.tier.write(tokens_from(6000), random_state(6))
    assert again.tier.find(tokens_from(1000)) is not None
    assert again.tier.find(tokens_from(2000)) is None
    again.tier.close()


def test_a_save_writes_no_state_that_another_one_covers(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    tier.tier.write(tokens_from(0, 50), random_state(1))
    tier.tier.write(tokens_from(1000, 100), random_state(2))
    tier.tier.close()
    states = [savable(0, 80), savable(0, 60), savable(1000, 90)]
    assert tier.tier.save(states, deadline=time.monotonic() + 60) == (1, 3000 + 4 * 80 + 80)
    heads = [read_head(path) for path in tmp_path.glob("*.kv")]
    assert sorted(len(head.tokens) // 4 for head in heads if head is not None) == [80, 100]


def test_a_save_without_time_writes_nothing(tmp_path: Path) -> None:
    tier = Tier(tmp_path)
    tier.tier.close()
    assert tier.tier.save([savable(0)], deadline=time.monotonic()) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_time_runs_out_for_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        write_state(tmp_path / "a.kv", pack(tokens_from(0)), random_state(1), deadline=time.monotonic())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_save_and_leaves_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = Tier(tmp_path, limit=100_000)
    tier.tier.close()
    real, written = os.write, 0

    def write(fd: int, data: memoryview) -> int:
        nonlocal written
        if written > 3500:
            raise OSError(errno.ENOSPC, "no space left on the device")
        written += len(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    states = [savable(1000 * number) for number in range(5)]
    assert tier.tier.save(states, deadline=time.monotonic() + 60) == (1, 3000 + 4 * 100 + 80)
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.iterdir()] == [".kv"]
    again = Tier(tmp_path)
    assert again.fetch(tokens_from(0)).state is not None
    again.tier.close()


def test_what_a_killed_save_has_left_is_deleted_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"a.kv.{ended.pid}{PART}").write_bytes(b"half")
    (tmp_path / f"b.kv.{os.getpid()}{PART}").write_bytes(b"half")
    tier = Tier(tmp_path)
    tier.tier.close()
    assert [path.name[0] for path in tmp_path.iterdir()] == ["b"]


def test_engines_that_share_a_folder_keep_its_limit_together(tmp_path: Path) -> None:
    tiers = [Tier(tmp_path, limit=7000), Tier(tmp_path, limit=7000)]
    for number in range(4):
        tiers[number % 2].tier.write(tokens_from(1000 * number), random_state(number))
    for tier in tiers:
        tier.tier.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 7000
    # A file that the other engine has deleted is a miss.
    again = [Tier(tmp_path), Tier(tmp_path)]
    (start,) = [start for start in range(0, 4000, 1000) if again[0].tier.find(tokens_from(start))][:1]
    for path in tmp_path.iterdir():
        path.unlink()
    assert again[1].fetch(tokens_from(start)).state is None
    again[1].tier.forget(tokens_from(start))
    assert again[1].tier.find(tokens_from(start)) is None
    for tier in again:
        tier.tier.close()
