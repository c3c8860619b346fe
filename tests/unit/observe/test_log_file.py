"""The log file of a server in the background: bounded, and nobody else's to read."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.observe.log_file import LogFile, log_files, new_log, older


def test_a_long_log_goes_to_the_second_file(tmp_path: Path) -> None:
    path, fd = new_log("m", "20300101-000000", tmp_path)
    other = os.dup(fd)  # As a child has it.
    log = LogFile(path, fd, max_bytes=10)
    os.write(other, b"first one\n")
    log.limit()
    assert not older(path).exists()
    os.write(other, b"second\n")
    log.limit()
    os.write(other, b"third\n")
    assert older(path).read_bytes() == b"first one\nsecond\n"
    assert path.read_bytes() == b"third\n"
    os.write(other, b"a long fourth line\n")
    log.limit()
    assert older(path).read_bytes() == b"third\na long fourth line\n", "the oldest lines are dropped"
    assert path.read_bytes() == b""
    assert {file.stat().st_mode & 0o777 for file in (path, older(path))} == {0o600}


def test_a_log_that_can_t_be_copied_is_bounded_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    path, fd = new_log("m", "20300101-000000", folder)
    os.write(fd, b"x" * 100)
    path.unlink()
    folder.rmdir()
    LogFile(path, fd, max_bytes=10).limit()
    assert os.fstat(fd).st_size == 0


def test_old_logs_are_deleted_but_for_some(tmp_path: Path) -> None:
    for day in range(1, 15):
        path, fd = new_log("hf:org/model:Q4", f"203001{day:02}-000000", tmp_path)
        os.close(fd)
        older(path).touch()
    left = log_files(tmp_path)
    assert [path.name for path in left] == [f"203001{day:02}-000000-hf-org-model-Q4.log" for day in range(4, 15)]
    assert len(list(tmp_path.iterdir())) == 2 * len(left)


def test_two_logs_of_one_second_are_two_files(tmp_path: Path) -> None:
    paths = [new_log("m", "20300101-000000", tmp_path)[0] for _ in range(2)]
    assert len(set(paths)) == 2
    assert log_files(tmp_path) == sorted(paths)
