"""What the server prints when it is ready: an address for a browser, a curl command, and how a client is started."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tailrace.server import startup_message
from tailrace.server.models.model_service import ModelService
from tailrace.settings import Settings


def message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    generates: bool = True,
    needs_key: bool = False,
) -> str:
    monkeypatch.setattr(startup_message, "_announced", False)
    info = SimpleNamespace(generates=generates, rank_score=None)
    model = cast(ModelService, SimpleNamespace(name="small", info=info))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        startup_message.announce(listener, Settings(), "small is ready", model, needs_key=needs_key)
        startup_message.announce(listener, Settings(), "twice", model, needs_key=needs_key)
        port = listener.getsockname()[1]
    return capsys.readouterr().out.replace(f":{port}", ":PORT")


def test_the_message_says_what_to_try(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = message(monkeypatch, capsys)
    assert "small is ready. Try:" in shown
    assert "twice" not in shown
    assert "a browser:   http://127.0.0.1:PORT/\n" in shown
    assert "curl -N http://127.0.0.1:PORT/v1/chat/completions" in shown
    assert "launch claude" in shown
    assert shown.endswith("tailrace listens on http://127.0.0.1:PORT\n")
    assert "YOUR_KEY" not in shown


@pytest.mark.parametrize(
    ("executable", "on_path", "command"),
    [
        ("{here}/.venv/bin/python", False, ".venv/bin/tailrace"),
        ("/opt/venv/bin/python", False, "/opt/venv/bin/tailrace"),
        ("/opt/venv/bin/python", True, "tailrace"),
    ],
)
def test_the_command_is_one_that_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    executable: str,
    on_path: bool,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", executable.format(here=tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/tailrace" if on_path else None)
    assert f" {command} launch claude" in message(monkeypatch, capsys)


def test_a_model_that_writes_no_text_has_no_client(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = message(monkeypatch, capsys, generates=False, needs_key=True)
    assert "tailrace launch" not in shown
    assert "/v1/embeddings" in shown
    assert "Bearer YOUR_KEY" in shown
