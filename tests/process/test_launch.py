"""``tailrace launch`` with a stand-in for the client, which prints what it was given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_shell import Shell

KEY = "s3cret"
CLIENT = """#!/bin/sh
echo "base=$ANTHROPIC_BASE_URL token=$ANTHROPIC_AUTH_TOKEN model=$ANTHROPIC_MODEL api_key=${ANTHROPIC_API_KEY-unset}"
echo "command=$(tr '\\0' ' ' </proc/$$/cmdline)"
exit 7
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """With a ``claude`` on the path, a server's key, and another service's."""
    (tmp_path / "bin").mkdir()
    client = tmp_path / "bin" / "claude"
    client.write_text(CLIENT, encoding="utf-8")
    client.chmod(0o755)
    with contextlib.closing(Shell(tmp_path)) as made:
        made.environment |= {
            "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}",
            "TAILRACE_API_KEY": KEY,
            "TAILRACE_BACKEND": "fake",
            "TAILRACE_PORT": "0",
            "TAILRACE_ALIAS": "agent",
            "ANTHROPIC_API_KEY": "another service's",
        }
        yield made


def test_a_client_gets_a_server_in_the_background_that_goes_on(shell: Shell) -> None:
    small = shell("launch", "claude", "agent")
    assert small.returncode == 1
    assert "needs a context of 32,768; agent on http://127.0.0.1:" in small.stderr
    assert "has 8,192" in small.stderr
    assert shell.servers() == [], "the server that was started for it is stopped"

    started = shell("launch", "claude", "agent", "--ctx", "40000", "--", "--model", "x", "--", "a b")
    assert started.returncode == 7, "the exit status is the client's"
    (server,) = shell.servers()
    told, command = started.stdout.splitlines()
    assert told == f"base={server.url} token={KEY} model=agent api_key=unset"
    assert command.split()[-5:] == ["--model", "x", "--", "a", "b"]
    assert KEY not in command

    shown = shell.done("launch", "claude", "--print")
    assert shell.servers() == [server], "it goes on, and the next client uses it"
    assert f"export ANTHROPIC_BASE_URL={server.url}\n" in shown
    assert 'export ANTHROPIC_AUTH_TOKEN="$TAILRACE_API_KEY"\n' in shown
    assert KEY not in shown


def test_what_is_missing_is_said(shell: Shell) -> None:
    nothing = shell("launch", "claude")
    assert nothing.returncode == 2
    assert "no server of yours runs: name a MODEL to serve" in nothing.stderr
    missing = shell("launch", "qwen", PATH="/usr/bin-of-nothing")
    assert missing.returncode == 2
    assert "Install it with: npm install -g @qwen-code/qwen-code" in missing.stderr
    assert shell("launch", "emacs").returncode == 2
