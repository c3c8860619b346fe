"""Clients that rerank: Cohere's package, and litellm by each of its providers whose API is served here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client_matrix import HERE, PYTHON_VENV, chosen
from servers import ServerProcess, fake

PATIENCE = 120.0
QUERY = "abc"
#: The scripted backend ranks by letters in common.
DOCUMENTS = ["x", "abc", "ab"]
ORDER = [1, 2, 0]
CLIENTS = ("cohere-v1", "cohere-v2", "litellm-cohere", "litellm-jina", "litellm-vllm", "litellm-tei")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """The scripted backend."""
    with fake("--parallel", "2") as made:
        yield made


def seen(client: str, port: int, folder: Path) -> dict[str, Any]:
    """What the client has seen."""
    address = f"http://127.0.0.1:{port}"
    done = subprocess.run(
        [
            *(str(PYTHON_VENV / "bin" / "python"), str(HERE / "rerankers" / "rerank_once.py")),
            *(client, address, "fake", QUERY, *DOCUMENTS),
        ],
        cwd=folder,
        # litellm fetches its list of prices from elsewhere otherwise.
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# Where the clients aren't among the run's there is no test, rather than a skipped one.
if any(client.home == "python" for client in chosen()):

    @pytest.mark.parametrize("client", CLIENTS)
    def test_documents_are_ranked(client: str, server: ServerProcess, tmp_path: Path) -> None:
        found = seen(client, server.port, tmp_path)
        assert found["order"] == ORDER
        assert 0.9 < found["score"] < 1
        if client != "cohere-v2":
            assert found["text"] == "abc"
        if client.startswith("cohere"):
            assert found["units"] == 1
            assert "documents" in found["error"]
