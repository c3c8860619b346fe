"""Servers in the background, with the scripted backend: serve --detach, ps, logs and stop, as a person types them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_shell import FAKE, Shell
from openai_wire import Connection, chat, chat_stream
from servers import PATIENCE, alive, wait_for


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with contextlib.closing(Shell(tmp_path)) as made:
        yield made


def test_servers_are_started_listed_and_stopped(shell: Shell) -> None:
    assert "No server of yours runs" in shell.done("ps")
    first = shell.detach("--alias", "one", TAILRACE_API_KEY="s3cret", TAILRACE_FAKE_STEP_SECONDS="0.02")
    with shell.running("serve", *FAKE, "--alias", "two") as foreground:
        assert foreground.stdout is not None
        port = next(int(line.rpartition(":")[2]) for line in foreground.stdout if "listens on" in line)
        with Connection(first) as running:
            key = {"authorization": "Bearer s3cret"}
            running.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 5000 + "</say>", stream=True), key)
            running.read_head()
            listed = {
                each["models"][0]: each for each in json.loads(shell.done("ps", "--json", TAILRACE_API_KEY="s3cret"))
            }
        assert {name: (each["url"], each["state"]) for name, each in listed.items()} == {
            "one": (f"http://127.0.0.1:{first}", "ready"),
            "two": (f"http://127.0.0.1:{port}", "ready"),
        }
        assert (listed["one"]["running"], listed["two"]["running"]) == (1, 0)
        assert listed["two"]["pid"] == foreground.pid
        assert listed["two"]["log"] is None
        assert all(each["memory"] > 1e6 for each in listed.values())
        assert listed["one"]["uptime"] < PATIENCE

        table = shell.done("ps")
        line = rf"\n *{listed['one']['pid']}  http://127\.0\.0\.1:{first} +one +ready .* - .*background"
        assert re.search(line, table)
        several = shell("stop")
        assert several.returncode == 2
        assert f"port {first}" in several.stderr
        assert f"port {port}" in several.stderr
        shell.done("stop", "two")
        assert foreground.wait(PATIENCE) == 0
    background = listed["one"]["pid"]
    assert f"Stopped one on port {first} (process {background})" in shell.done("stop", str(first), "--now")
    assert not alive(background)
    assert shell.servers() == []


def test_a_server_in_the_background_has_no_terminal_and_a_log_of_its_own(shell: Shell) -> None:
    port = shell.detach("--drain-seconds", "60", TAILRACE_FAKE_STEP_SECONDS="0.02")
    (server,) = shell.servers()
    pid = server.supervisor
    assert server.log is not None
    assert os.getsid(pid) == pid, "it leads a session"
    descriptors = {name: str(Path(f"/proc/{pid}/fd/{name}").readlink()) for name in "012"}
    assert descriptors == {"0": "/dev/null", "1": server.log, "2": server.log}
    assert (Path(server.log)).stat().st_mode & 0o777 == 0o600
    os.kill(pid, signal.SIGHUP)  # What a closed terminal sends to its session.
    assert f"listens on http://127.0.0.1:{port}" in shell.done("logs")
    assert len(shell.done("logs", str(port), "-n", "1").splitlines()) == 1
    with shell.running("logs", "-f", "-n", "100") as following:
        assert following.stdout is not None
        assert any("listens on" in line for line in following.stdout)
        with Connection(port) as connection:
            connection.request("POST", "/v1/chat/completions", chat("<say>ok</say>"))
            assert connection.read().status == 200
            connection.request("POST", "/v1/chat/completions", chat(f"<say>{'x' * 50}</say>", stream=True))
            reply = connection.read_head()
            reply.chunks.append(connection.chunk())
            shell.done("stop")
            reply.chunks += connection.chunks()
            assert chat_stream(reply).text == ["x" * 50], "running replies finish"
        told, ended = following.communicate(timeout=PATIENCE)
    assert following.returncode == 0, "it ends with the server"
    assert told.count("route=/chat/completions") == 2
    assert "stopped" in told
    assert "The server has ended" in ended
    last = shell("logs")
    assert last.returncode == 0
    assert "stopped" in last.stdout
    assert "No server of yours runs. The log of the last one" in last.stderr


def test_a_server_that_can_t_start_is_status_1_with_the_log_s_last_lines(shell: Shell) -> None:
    port = shell.detach()
    refused = shell("serve", "--detach", "--backend", "fake", "--port", str(port))
    assert refused.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in refused.stderr
    assert len(shell.servers()) == 1
    failed = shell("serve", "--detach", *FAKE, TAILRACE_FAKE_LOAD_FAILS="tensor 7 is missing")
    assert failed.returncode == 1
    assert "tensor 7 is missing" in failed.stderr
    assert shell("serve", "--detach", "--ctx", "many").returncode == 2, "wrong flags are told at once"


def test_a_killed_server_leaves_nothing_and_a_stranger_with_its_process_id_is_left_alone(shell: Shell) -> None:
    shell.detach("--alias", "killed")
    shell.detach("--alias", "stays")
    pids = {each.models[0]: each.supervisor for each in shell.servers()}
    os.kill(pids["killed"], signal.SIGKILL)
    wait_for("its end", lambda: not alive(pids["killed"]))
    assert [each.supervisor for each in shell.servers()] == [pids["stays"]]
    # The record has another start of the process: its id is another program's by now.
    (record,) = (shell.state / "servers").glob("*.json")
    state = json.loads(record.read_bytes())
    record.write_text(json.dumps({**state, "start_ticks": state["start_ticks"] - 1}), encoding="utf-8")
    refused = shell("stop", str(pids["stays"]))
    assert refused.returncode == 2
    assert "no server of yours runs" in refused.stderr
    assert alive(pids["stays"])
    record.write_text(json.dumps(state), encoding="utf-8")
