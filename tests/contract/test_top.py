"""``tailrace top`` against a real server: once, as JSON, over a pipe, and live in a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pty_session import PtySession
from servers import ServerProcess

TOP = [str(Path(sys.executable).with_name("tailrace")), "top"]


def environment(**more: str) -> Mapping[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    return {**own, "PYTHONUTF8": "1", **more}


def top(server: ServerProcess, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [*TOP, "--url", f"http://127.0.0.1:{server.port}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**variables), check=False)


def test_once_it_is_plain_text_in_a_pipe(scripted: ServerProcess) -> None:
    done = top(scripted, "--once")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"tailrace top  http://127.0.0.1:{scripted.port}")
    assert "\x1b" not in done.stdout
    for text in ("requests", "KV cache", "PROCESS", str(scripted.engine)):
        assert text in done.stdout


def test_as_json_it_is_the_servers_answer(scripted: ServerProcess) -> None:
    found = json.loads(top(scripted, "--once", "--json").stdout)
    assert found["limit"] == found["findings"][0]["code"]
    assert [process["role"] for process in found["processes"]] == ["http", "supervisor", "engine"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_that_has_seen_enough_ends_it_quietly(scripted: ServerProcess, form: tuple[str, ...]) -> None:
    command = [*TOP, "--url", f"http://127.0.0.1:{scripted.port}", "--interval", "1", *form]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(60) == 0
        assert running.stderr.read() == ""


def test_it_needs_the_servers_key(keyed: ServerProcess) -> None:
    refused = top(keyed, "--once")
    assert refused.returncode == 1
    assert "wants another API key: set --key or TAILRACE_API_KEY" in refused.stderr
    assert top(keyed, "--once", TAILRACE_API_KEY="s3cret").returncode == 0


def test_without_a_server_it_says_so() -> None:
    command = [*TOP, "--once", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 1
    assert "http://127.0.0.1:1 doesn't answer" in done.stderr


def test_in_a_terminal_it_is_live_until_q(scripted: ServerProcess) -> None:
    command = [*TOP, "--url", f"http://127.0.0.1:{scripted.port}", "--interval", "1"]
    session = PtySession(command, environment(), columns=80)
    try:
        for _ in range(2):
            session.until("KV cache")
        session.type("q")
        assert session.wait() == 0
        assert session.raw.rstrip().endswith("\x1b[?1049l"), "the terminal's own screen is back"
    finally:
        session.close()
