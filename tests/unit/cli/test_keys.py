"""``tailrace keys``: a key is shown once, to standard output alone."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tailrace.cli.commands import command_line
from tailrace.errors import ConfigurationError
from tailrace.server.keys.keys_file import digest, read_keys


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("TAILRACE_KEYS_FILE", raising=False)
    return tmp_path


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(command_line(), ["keys", *arguments])


def test_a_key_is_made_listed_and_revoked(home: Path) -> None:
    limits = ("--expires", "30d", "--concurrency", "4", "--tokens-per-minute", "1000", "--tokens-per-day", "100000")
    made = keys("create", "alice", *limits, "--model", "qwen*", "--model", "llama*")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert re.fullmatch(r"tr-[\w-]{43}", key), "standard output has the key and nothing else"
    assert "every request to a server needs a key" in made.stderr
    assert key not in made.stderr
    file = home / "tailrace" / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (record,) = read_keys(file) or []
    assert record.sha256 == digest(key.encode())
    assert keys("create", "bob").exit_code == 0
    shown = keys("list")
    assert "alice" in shown.stdout
    assert "qwen*, llama*" in shown.stdout
    assert key not in shown.output
    alice, bob = json.loads(keys("list", "--json").stdout)
    assert (alice["concurrency"], alice["tokens_per_minute"], alice["tokens_per_day"]) == (4, 1000, 100_000)
    assert alice["models"] == ["qwen*", "llama*"]
    assert (bob["expires"], bob["concurrency"], bob["tokens_today"]) == (None, None, 0)
    assert keys("revoke", "alice").exit_code == 0
    last = keys("revoke", "bob")
    assert "No key is left" in last.stderr
    assert read_keys(file) == []
    assert "No keys" in keys("list").stdout


def test_what_is_wrong_is_said(home: Path) -> None:
    for arguments in (
        ("create", "a b"),
        ("create", "default"),
        ("create", "a", "--expires", "yesterday"),
        ("revoke", "none"),
    ):
        with pytest.raises(ConfigurationError):
            CliRunner().invoke(command_line(), ["keys", *arguments], catch_exceptions=False)
    assert keys("create", "a", "--concurrency", "0").exit_code == 2
    assert not (home / "tailrace" / "keys.json").exists()


def test_the_file_is_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_KEYS_FILE", str(home / "elsewhere" / "k.json"))
    assert keys("create", "a").exit_code == 0
    assert (home / "elsewhere" / "k.json").exists()
    assert keys("create", "a", "--file", str(home / "third.json")).exit_code == 0
    assert (home / "third.json").exists()
