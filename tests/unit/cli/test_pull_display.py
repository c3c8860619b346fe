"""The bars of a pull fit into the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tailrace.cli import console_output
from tailrace.cli.pull_display import pull_display
from tailrace.models.pulls.progress import Progress

NAME = "folder/Mistral-Small-3.2-24B-Instruct-2506-Q4_K_M-00001-of-00002.gguf"


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_file_has_one_line(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns, color_system=None)
    monkeypatch.setattr(console_output, "stderr", lambda: console)
    display = pull_display()
    for done in (0, 100_500_000_000):
        display.show(Progress(stage="download", file=NAME, done=done, total=999_900_000_000, all_total=999_900_000_000))
    display.end()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert lines
    assert all("-of-00002.gguf" in line and "999.9 GB" in line for line in lines)
