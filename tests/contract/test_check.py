"""``tailrace check`` as it is typed: on ourselves, on servers that break rules, on what is no server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from faults import FAULTS
from good_dialects import respond
from model_server import Answer, Asked, ModelServer
from servers import ServerProcess
from tailrace.conformance.registry import RULES

CHECK = [sys.executable, "-c", "from tailrace.cli.app import main; main()", "check"]
#: What a server without a key and a model that thinks of nothing needn't show. Ollama's API can't force calls, and a
#: model that may choose may not call.
MAY_BE_UNSEEN = {
    "wrong-key", "either-header", "error-in-stream", "reasoning-apart", "think-tags", "cancel", "keep-alive",
    "keep-alive-form", "responses-keep-alive", "anthropic-ping", "ollama-keep-alive", "ollama-embed", "concurrent",
    "ollama-tool", "utf8", "known-calls", "closed-objects",
}  # fmt: skip


def check(*arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """The command, with the key as people give it."""
    environment = {"TAILRACE_API_KEY": key, "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [*CHECK, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def changed(rule: str) -> ModelServer:
    """A server that breaks this rule."""
    return ModelServer(respond, next(fault.alter for fault in FAULTS if fault.rule == rule))


def test_our_own_server_breaks_no_rule(real: ServerProcess, tmp_path: Path) -> None:
    done = check(
        f"http://127.0.0.1:{real.port}", "--long-prompt", "64", "--json", "-", "--junit", str(tmp_path / "junit.xml")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["errors"] + report["summary"]["warnings"] + report["summary"]["notes"] == 0
    assert report["exit_status"] == 0
    unseen = {result["id"]: result["seen"] for result in report["results"] if result["verdict"] == "not seen"}
    assert set(unseen) <= MAY_BE_UNSEEN, unseen
    # The starter model is no reranker.
    assert {name for name, seen in report["dialects"].items() if seen != "checked"} == {"rerank"}

    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    cases = list(root.iter("testcase"))
    assert [case.get("name") for case in cases] == [result["id"] for result in report["results"]]
    assert {case.get("name") for case in cases if case.find("skipped") is not None} == set(unseen)
    assert not list(root.iter("failure"))


def test_a_broken_rule_is_shown_with_the_observation_and_its_effect() -> None:
    with changed("data-prefix") as server:
        done = check(server.url, "--dialect", "openai", "--rule", "data-prefix", "--rule", "done")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout
    assert 'data:{"id"' in done.stdout
    assert RULES["data-prefix"].breaks in done.stdout
    assert "1 passed, 1 failed, 0 warnings" in done.stdout


@pytest.mark.parametrize(("rule", "status"), [("stream-cache", 3), ("no-nulls", 0), ("stream-type", 1)])
def test_the_exit_status_is_by_severity(rule: str, status: int, tmp_path: Path) -> None:
    with changed(rule) as server:
        done = check(server.url, "--rule", rule, "--junit", str(tmp_path / "junit.xml"))
    assert done.returncode == status, done.stdout + done.stderr
    (case,) = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("testcase")
    # Advice fails no build.
    assert (case.find("failure") is not None) == (status != 0)


def test_an_absent_dialect_is_skipped_unless_requested() -> None:
    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if asked.path.startswith(("/api", "/v1/embeddings")):
            answer.refuse(404, {"error": {"message": "no such route", "type": "x", "param": None, "code": None}})

    with ModelServer(respond, alter) as server:
        every = check(server.url, "--json", "-", "--skip", "cancel")
        named = check(server.url, "--json", "-", "--dialect", "ollama")
        shown = check(server.url, "--rule", "done")
    assert every.returncode == 0, every.stdout
    assert json.loads(every.stdout)["dialects"]["ollama"] == "not there"
    assert named.returncode == 1
    assert json.loads(named.stdout)["dialects"]["openai"] == "not asked for"
    assert "not there, and so not checked: embeddings, ollama" in shown.stdout


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if answer.pieces is not None:
            answer.refuse(500, {"error": f"what is {asked.headers['authorization']}?"})

    with ModelServer(respond, alter, key="s3cret") as server:
        done = check(server.url, "--rule", "stream-status", "--junit", str(tmp_path / "junit.xml"), key="s3cret")
        wrong = check(server.url, "--key", "another-s3cret")
    assert done.returncode == 1
    assert "what is Bearer ***?" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr + (tmp_path / "junit.xml").read_text()
    assert (wrong.returncode, wrong.stdout) == (4, "")
    assert "another key" in wrong.stderr
    assert "s3cret" not in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["http://127.0.0.1:9"], 4, "no server at 127.0.0.1:9"),
        (["ftp://host"], 2, "http://"),
        (["--rule", "no-such-rule"], 2, "no-such-rule"),
        (["--dialect", "klingon"], 2, "klingon"),
        (["--timeout", "soon"], 2, "--timeout"),
        (["--json", "-", "--junit", "-"], 2, "--junit"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_a_status(arguments: list[str], status: int, says: str) -> None:
    done = check(*arguments)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_servers_text_cannot_control_the_terminal() -> None:
    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if answer.pieces is not None:
            answer.refuse(500, "\x1b]0;title\x07[bold]red[/bold]")
            answer.body = b"\x1b]0;title\x07[bold]red[/nothing]"

    with ModelServer(respond, alter) as server:
        done = check(server.url, "--rule", "stream-status")
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "[bold]red[/nothing]" in done.stdout
