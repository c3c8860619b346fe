"""Agents on the command line: a turn in which the model calls the agent's shell, reads what it printed and answers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import litellm_proxy
from client_matrix import NODE, Client, chosen, proofs
from client_results import Results
from openai_wire import say
from relay import Relay
from servers import fake

PATIENCE = 120.0
#: Prints the next reply's script, which mustn't stand in the prompt before.
COMMAND = "printf '<sa%s' 'y>It said so.</sa'; echo 'y>'"
BEFORE = "Let me look."
#: The agents' first prompts have tens of thousands of tokens here, which are read for seconds: 25,600 in one.
SERVER = (
    *("--ctx", "400000", "--parallel", "4", "--aliases", "*"),
    *("--prefill-chunk", "256", "--keepalive-seconds", "0.3"),
)
STEP = 0.01


def script(tool: str, arguments: dict[str, str]) -> str:
    """What the user says, so that the model calls the tool."""
    call = json.dumps({"name": tool, "arguments": arguments})
    reply = f"{BEFORE}\n<tool_call>\n{call}\n</tool_call>"
    return f"Do it. {say(reply)}"


def run(command: list[str], folder: Path, environment: dict[str, str]) -> list[dict[str, object]]:
    """The events that the agent prints: lines of JSON, or one line with all of them."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(NODE / "node_modules" / ".bin" / command[0]), *command[1:]],
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, object]] = []
    for line in done.stdout.splitlines():
        parsed = json.loads(line)
        found += parsed if isinstance(parsed, list) else [parsed]
    return found


def claude_code_environment(port: int, key: str, model: str) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "ANTHROPIC_API_KEY": key,
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_SMALL_FAST_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def claude_code(port: int, key: str, model: str, folder: Path) -> dict[str, object]:
    """A turn of Claude Code."""
    events = run(
        [
            *("claude", "--print", "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash", "--"),
            script("Bash", {"command": COMMAND, "description": "Say it"}),
        ],
        folder,
        claude_code_environment(port, key, model),
    )
    blocks = [
        block
        for event in events
        if event["type"] in {"assistant", "user"}
        for block in event["message"]["content"]  # type: ignore[index]  # JSON of the agent's
    ]
    return {
        "text": next(block["text"] for block in blocks if block["type"] == "text"),
        "printed": next(block["content"] for block in blocks if block["type"] == "tool_result"),
        "answer": events[-1]["result"],
    }


def codex(port: int, key: str, model: str, folder: Path) -> dict[str, object]:
    """A turn of Codex, which gives up a silent stream after 1.5 s. litellm's proxy is silent itself."""
    patience = 30_000 if key == litellm_proxy.KEY else 1500
    (folder / "codex").mkdir()
    (folder / "codex" / "config.toml").write_text(
        f"""
        model = "{model}"
        model_provider = "tailrace"
        [model_providers.tailrace]
        name = "tailrace"
        base_url = "http://127.0.0.1:{port}/v1"
        env_key = "TAILRACE_KEY"
        wire_api = "responses"
        request_max_retries = 0
        stream_max_retries = 0
        stream_idle_timeout_ms = {patience}
        """,
        encoding="utf-8",
    )
    events = run(
        [
            *("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"),
            script("exec_command", {"cmd": COMMAND}),
        ],
        folder,
        {"CODEX_HOME": str(folder / "codex"), "TAILRACE_KEY": key},
    )
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    texts = [item["text"] for item in items if item["type"] == "agent_message"]  # type: ignore[index]  # JSON of the agent's
    printed = [item["aggregated_output"] for item in items if item["type"] == "command_execution"]  # type: ignore[index]  # JSON of the agent's
    return {"text": texts[0], "printed": printed[0], "answer": texts[-1]}


def opencode(port: int, key: str, model: str, folder: Path) -> dict[str, object]:
    """A turn of opencode."""
    options = {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": key}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": "tailrace", "options": options, "models": {model: {}}}
    settings = {"autoupdate": False, "share": "disabled", "permission": "allow", "provider": {"tailrace": provider}}
    (folder / "work").mkdir()
    (folder / "work" / "opencode.json").write_text(json.dumps(settings), encoding="utf-8")
    events = run(
        ["opencode", "run", "--model", f"tailrace/{model}", "--format", "json", script("bash", {"command": COMMAND})],
        folder,
        {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"},
    )
    parts: list[Any] = [event["part"] for event in events]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    printed = [part["state"]["output"] for part in parts if part["type"] == "tool"]
    return {"text": texts[0], "printed": printed[0], "answer": texts[-1]}


def qwen_code(port: int, key: str, model: str, folder: Path) -> dict[str, object]:
    """A turn of Qwen Code."""
    events: list[Any] = run(
        [
            *("qwen", "--yolo", "--auth-type", "openai", "--output-format", "json", "-p"),
            script("run_shell_command", {"command": COMMAND}),
        ],
        folder,
        {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": key, "OPENAI_MODEL": model},
    )
    blocks = [block for event in events if "message" in event for block in event["message"]["content"]]
    return {
        "text": next(block["text"] for block in blocks if block["type"] == "text"),
        "printed": next(block["content"] for block in blocks if block["type"] == "tool_result"),
        "answer": events[-1]["result"],
    }


AGENTS: dict[str, Callable[[int, str, str, Path], dict[str, object]]] = {
    "claude-code": claude_code,
    "codex": codex,
    "opencode": opencode,
    "qwen-code": qwen_code,
}
MATRIX = [
    pytest.param(client, way, id=f"{client.name}-{way}")
    for client in chosen()
    if client.name in AGENTS
    for way in client.ways
]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()


# Where they aren't among the run's clients there is no test, rather than a skipped one.
if MATRIX:

    @pytest.mark.parametrize(("client", "way"), MATRIX)
    def test_a_turn_with_a_tool_call(client: Client, way: str, results: Results, tmp_path: Path) -> None:
        for proof in ("text", "tool-call", "answer"):
            results.begin(client, way, proof)
        with contextlib.ExitStack() as stack:
            port, key, model = stack.enter_context(fake(*SERVER, step=STEP)).port, "any", "fake"
            if way == "relay":
                port = stack.enter_context(Relay(port)).port
            elif way == "litellm":
                port = stack.enter_context(litellm_proxy.litellm_proxy({model: port}))
                key = litellm_proxy.KEY
            seen = AGENTS[client.name](port, key, model, tmp_path)
        assert str(seen["text"]).strip() == BEFORE
        results.passed(client, way, "text")
        assert str(seen["printed"]).strip() == "<say>It said so.</say>"
        results.passed(client, way, "tool-call")
        assert seen["answer"] == "It said so."
        results.passed(client, way, "answer")


SWITCHING = [
    pytest.param(client, way, id=f"{client.name}-{way}")
    for client in chosen()
    if client.name == "claude-code"
    for way in client.ways
    if "switching" in proofs(client, way)
]
if SWITCHING:

    @pytest.mark.parametrize(("client", "way"), SWITCHING)
    def test_an_agent_goes_on_with_another_model(client: Client, way: str, results: Results, tmp_path: Path) -> None:
        """The session's second turn asks another model of the server, whose memory holds one of them."""
        results.begin(client, way, "switching")
        sizes = {"models_mb": "400", "fake_weights_mb": "first=150,second=150"}
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(fake("first", "second", *SERVER, step=STEP, **sizes)).port
            for model, more in (("first", ()), ("second", ("--continue",))):
                events = run(
                    ["claude", "--print", "--output-format", "json", *more, "--", say(f"This is {model}.")],
                    tmp_path,
                    claude_code_environment(port, "any", model),
                )
                assert events[-1]["result"] == f"This is {model}."
        results.passed(client, way, "switching")
