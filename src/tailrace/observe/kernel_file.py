"""Reads small files of /proc and /sys, which may be missing, unreadable or gone from one moment to the next."""

from __future__ import annotations

import os
from pathlib import Path

#: Clock ticks a second in /proc's files.
TICKS = os.sysconf("SC_CLK_TCK")


def read_text(path: Path | str) -> str:
    """The file's text; empty where it can't be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall().decode("utf-8", "replace")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """The file's only number; None where there is none."""
    text = read_text(path).strip()
    return int(text) if text.isdigit() else None


def read_fields(path: Path) -> dict[str, str]:
    """The values of a file with a name and a value in each line, by name, without colons."""
    fields = {}
    for line in read_text(path).splitlines():
        name, _, value = line.replace(":", " ", 1).partition(" ")
        fields[name] = value.strip()
    return fields


def first_number(text: str) -> int:
    """The number that ``text`` begins with; 0 where it begins with none."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    return int(word) if word.isdigit() else 0
