"""``tailrace config show``: the settings of the server, and those of each model's table."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tailrace.cli.commands import command_line


def test_each_model_s_table_is_shown_with_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("TAILRACE_PARALLEL", "3")
    file = tmp_path / "settings.toml"
    file.write_text('backend = "fake"\n[models.coder]\nctx = 777\nparallel = 5\n[models.writer]\npinned = true\n')
    shown = CliRunner().invoke(command_line(), ["config", "show", "--config", str(file)]).output
    server, coder, writer = shown.replace("[models.", "\f[models.").split("\f")
    assert "ctx" in server
    assert coder.startswith("[models.coder]")
    assert [line.split() for line in coder.splitlines() if line.startswith(("ctx", "parallel"))] == [
        ["ctx", "777", "file"],
        ["parallel", "3", "environment"],
    ]
    assert writer.startswith("[models.writer]")
    assert ["pinned", "True", "file"] in [line.split() for line in writer.splitlines()]
