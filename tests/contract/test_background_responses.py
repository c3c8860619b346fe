"""Responses in the background, and the file in which responses are stored."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from openai_wire import ask, metric
from responses_requests import post, respond, text
from responses_wire import check_response
from servers import PATIENCE, ServerProcess, fake, wait_for


def test_a_background_response_needs_store(scripted: ServerProcess) -> None:
    assert post(scripted, "x", background=True, store=False).error()["param"] == "background"


def test_a_response_in_the_background(scripted: ServerProcess) -> None:
    begun = post(scripted, "<say>a</say>", background=True).json()
    assert (begun["status"], begun["background"], begun["output"]) == ("in_progress", True, [])
    path = f"/v1/responses/{begun['id']}"
    wait_for("its end", lambda: ask(scripted.port, "GET", path).json()["status"] == "completed")
    done = ask(scripted.port, "GET", path).json()
    check_response(done)
    assert text(done) == "a"
    assert ask(scripted.port, "POST", f"{path}/cancel").json() == done, "it was over"


def test_a_response_in_the_background_is_cancelled(slow: ServerProcess) -> None:
    path = f"/v1/responses/{post(slow, '<say>' + 'a' * 4000 + '</say>', background=True).json()['id']}"
    wait_for("it to run", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
    unfinished = post(slow, "x", previous_response_id=path.rsplit("/", 1)[1]).error()
    assert unfinished["param"] == "previous_response_id"
    assert ask(slow.port, "POST", f"{path}/cancel").json()["status"] == "cancelled"
    wait_for("the engine to stop", lambda: metric(slow.port, "vllm:num_requests_running") == 0)
    assert ask(slow.port, "GET", path).json()["status"] == "cancelled"


def test_a_chat_does_not_wait_for_responses_in_the_background(slow: ServerProcess) -> None:
    begun = [post(slow, f"{number}<say>{'a' * 4000}</say>", background=True).json()["id"] for number in range(20)]
    wait_for("all places to be taken", lambda: metric(slow.port, "vllm:num_requests_waiting") > 0)
    assert text(post(slow, "<say>b</say>").json()) == "b"
    states = [ask(slow.port, "GET", f"/v1/responses/{identity}").json()["status"] for identity in begun]
    assert set(states) == {"in_progress"}
    for identity in begun:
        ask(slow.port, "POST", f"/v1/responses/{identity}/cancel")


def test_only_a_response_in_the_background_can_be_cancelled(scripted: ServerProcess) -> None:
    identity = respond(scripted, "<say>a</say>")["id"]
    reply = ask(scripted.port, "POST", f"/v1/responses/{identity}/cancel")
    assert reply.status == 400
    assert identity in reply.error()["message"]


# The file


@pytest.fixture
def forgetful() -> Iterator[ServerProcess]:
    with fake("--responses-mb", "0") as server:
        yield server


def test_a_server_without_a_store(forgetful: ServerProcess) -> None:
    response = respond(forgetful, "<say>a</say>")
    assert response["store"] is False
    assert ask(forgetful.port, "GET", f"/v1/responses/{response['id']}").status == 404
    for field, value in (
        ("store", True),
        ("background", True),
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
    ):
        reply = post(forgetful, "x", **{field: value})
        assert (reply.status, reply.error()["param"]) == (400, field)
    assert ask(forgetful.port, "POST", "/v1/conversations", {}).status == 404
    assert not list(forgetful.temporary.rglob("*.sqlite"))


def test_the_store_file_is_private_and_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "kept.sqlite"
    with fake(responses_file=str(file)) as server:
        assert not file.exists(), "nothing is opened before it is needed"
        first = respond(server, "<say>a</say>")
        assert ask(server.port, "GET", f"/v1/responses/{first['id']}").status == 200
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    with fake(responses_file=str(file)) as server:
        assert ask(server.port, "GET", f"/v1/responses/{first['id']}").json() == first
        assert text(respond(server, "<say>b</say>", previous_response_id=first["id"])) == "b"


def test_stopping_the_server_ends_background_responses(tmp_path: Path) -> None:
    file = tmp_path / "kept.sqlite"
    with fake(step=0.02, responses_file=str(file)) as server:
        path = f"/v1/responses/{post(server, '<say>' + 'a' * 4000 + '</say>', background=True).json()['id']}"
        wait_for("it to run", lambda: metric(server.port, "vllm:num_requests_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    with fake(responses_file=str(file)) as server:
        ended = ask(server.port, "GET", path).json()
        assert (ended["status"], ended["error"]["code"]) == ("failed", "server_error")


def test_what_ran_in_a_process_that_died_has_failed() -> None:
    with fake(step=0.02) as server:
        path = f"/v1/responses/{post(server, '<say>' + 'a' * 4000 + '</say>', background=True).json()['id']}"
        assert ask(server.port, "GET", path).json()["status"] == "in_progress"
        old = server.http
        os.kill(old, signal.SIGKILL)
        wait_for("another", lambda: server.child("server") not in (None, old))
        lost = ask(server.port, "GET", path).json()
        assert lost["status"] == "failed"
        assert lost["error"]["code"] == "server_error"
