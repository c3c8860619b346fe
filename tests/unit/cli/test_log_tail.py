"""Reading a log file's end, also while it is written and emptied."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tailrace.cli.log_tail import follow, last_lines
from tailrace.observe.log_file import older


def test_the_last_lines_reach_into_the_second_file(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert last_lines(path, 3, 0) == []
    path.write_bytes(b"four\r\nfive \xff\n")
    older(path).write_bytes(b"one\ntwo\nthree\n")
    assert last_lines(path, 3, 13) == ["three", "four\r", "five �"]
    assert last_lines(path, 9, 13) == ["one", "two", "three", "four\r", "five �"]
    assert last_lines(path, 2, 6) == ["three", "four\r"], "what comes behind the given end is followed"


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_following_ends_with_the_server_and_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before\n", encoding="utf-8")
    # What happens to the file at each look, the last with the server's end.
    events: list[Callable[[], object]] = [
        partial(append, path, "one\n"),
        partial(path.write_text, "", encoding="utf-8"),
        partial(append, path, "two\n"),
        partial(append, path, "three\n"),
    ]

    def goes_on() -> bool:
        events.pop(0)()
        return bool(events)

    assert "".join(follow(path, path.stat().st_size, goes_on)) == "one\ntwo\nthree\n"
