"""Frameworks that people write agents with: a turn in which the model calls a function and answers with its result."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_matrix import AGENTS_VENV, HERE, Client, chosen
from client_results import Results
from openai_wire import say
from relay import Relay
from servers import ServerProcess, fake

PATIENCE = 120.0
#: What each function returns: the script of the next reply.
PRINTED = "<say>It said so.</say>"
#: The function that the model calls, its arguments, and what has to come of the turn.
CALL, ANSWER = ("shell", {"command": "ls"}), "It said so."
CALLS = {"instructor": (("Shell", {"command": "ls", "seconds": 3}), "3")}
MATRIX = [
    pytest.param(client, way, id=f"{client.name}-{way}")
    for client in chosen()
    if client.home == "agents"
    for way in client.ways
]


@pytest.fixture(scope="module")
def results() -> Iterator[Results]:
    """What is proven in this run."""
    gathered = Results()
    yield gathered
    gathered.write()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """The scripted backend."""
    with fake("--ctx", "32768", "--parallel", "4") as made:
        yield made


# Where they aren't among the run's clients there is no test, rather than a skipped one.
if MATRIX:

    @pytest.mark.parametrize(("client", "way"), MATRIX)
    def test_a_turn_with_a_call(
        client: Client, way: str, results: Results, server: ServerProcess, tmp_path: Path
    ) -> None:
        for proof in client.asked:
            results.begin(client, way, proof)
        (name, arguments), answer = CALLS.get(client.name, (CALL, ANSWER))
        call = json.dumps({"name": name, "arguments": arguments})
        prompt = f"Do it. {say(f'<tool_call>{chr(10)}{call}{chr(10)}</tool_call>')}"
        with Relay(server.port) as relay:
            port = relay.port if way == "relay" else server.port
            done = subprocess.run(
                [
                    *(str(AGENTS_VENV / "bin" / "python"), str(HERE / "frameworks" / client.driver)),
                    *(f"http://127.0.0.1:{port}", "any", "fake", prompt, PRINTED),
                ],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        seen = json.loads(done.stdout)
        assert seen["called"] == ["ls"]
        results.passed(client, way, "tool-call")
        assert seen["answer"] == answer
        results.passed(client, way, "answer")
