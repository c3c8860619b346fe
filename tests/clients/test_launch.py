"""``tailrace launch`` with the real clients: each is started by it, asks the server, and shows the reply."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_matrix import AIDER_VENV, NODE, OPEN_WEBUI_VENV, Client, chosen
from client_results import Results
from open_webui import PATIENCE as OPEN_WEBUI_PATIENCE
from openai_wire import say
from peer_process import listening
from servers import ServerProcess, fake
from test_agents import PATIENCE, SERVER

TAILRACE = str(Path(sys.executable).with_name("tailrace"))
REPLY = "Launched by tailrace."
KEY = "s3cret"
#: The client's name for ``launch``, and its own arguments for one question. Each prints the reply.
CLIENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "claude-code": ("claude", ("--print", "--")),
    "codex": ("codex", ("exec", "--skip-git-repo-check")),
    "opencode": ("opencode", ("run",)),
    "qwen-code": ("qwen", ("-p",)),
    "aider": ("aider", ("--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--message")),
}
MATRIX = [pytest.param(client, id=client.name) for client in chosen() if client.name in CLIENTS]
OPEN_WEBUI = [client for client in chosen() if client.name == "open-webui"]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A scripted server that wants a key."""
    with fake(*SERVER, api_key=KEY) as running:
        yield running


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A user's with the clients on the path, an empty home, and keys of other services."""
    path = [str(NODE / "node_modules" / ".bin"), str(AIDER_VENV / "bin"), str(OPEN_WEBUI_VENV / "bin")]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LANG", "LC_"))}
    return {
        **kept,
        "PATH": os.pathsep.join([*path, os.environ["PATH"]]),
        "HOME": str(folder),
        "TAILRACE_API_KEY": KEY,
        "ANTHROPIC_API_KEY": "another service's",
        "OPENAI_API_KEY": "another service's",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        **more,
    }


# Where they aren't among the run's clients there is no test, rather than a skipped one.
if MATRIX:

    @pytest.mark.parametrize("client", MATRIX)
    def test_a_launched_client_shows_the_servers_reply(
        client: Client, server: ServerProcess, results: Results, tmp_path: Path
    ) -> None:
        results.begin(client, "direct", "launch")
        name, arguments = CLIENTS[client.name]
        work = tmp_path / "work"
        work.mkdir()
        url = f"http://127.0.0.1:{server.port}"
        done = subprocess.run(
            [TAILRACE, "launch", name, "--url", url, "--", *arguments, f"Do it. {say(REPLY)}"],
            cwd=work,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # The question has the reply's text, so the answer is a line of its own.
        assert any(line.strip() == REPLY for line in done.stdout.splitlines()), done.stdout + done.stderr
        results.passed(client, "direct", "launch")


if OPEN_WEBUI:

    def test_a_launched_open_webui_passes_the_servers_reply_on(
        server: ServerProcess, results: Results, tmp_path: Path
    ) -> None:
        results.begin(OPEN_WEBUI[0], "direct", "launch")
        command = [TAILRACE, "launch", "open-webui", "--url", f"http://127.0.0.1:{server.port}", "--"]
        variables = environment(tmp_path, OFFLINE_MODE="True", HF_HUB_OFFLINE="1", ANONYMIZED_TELEMETRY="False")
        with listening(
            "Open WebUI", command, str(tmp_path), variables, health="/health", patience=OPEN_WEBUI_PATIENCE
        ) as port:

            def ask(path: str, body: object, token: str = "") -> dict[str, object]:
                headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body is not None else None, headers
                )
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    found: dict[str, object] = json.loads(answer.read())
                    return found

            token = str(ask("/api/v1/auths/signin", {"email": "", "password": ""})["token"])
            listed = json.dumps(ask("/api/models", None, token))
            assert '"id": "fake"' in listed, listed
            chat = {"model": "fake", "messages": [{"role": "user", "content": say(REPLY)}], "stream": False}
            replied = json.dumps(ask("/api/chat/completions", chat, token))
            assert REPLY in replied, replied
        results.passed(OPEN_WEBUI[0], "direct", "launch")
