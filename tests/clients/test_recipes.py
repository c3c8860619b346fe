"""What docs/recipes says to type in Python and JavaScript works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_matrix import AGENTS_VENV, CLIENTS, NODE, PYTHON_VENV, ROOT, chosen
from openai_wire import say
from servers import ServerProcess, fake

PATIENCE = 120.0
ADDRESS = "127.0.0.1:8000"
#: Recipes whose question needs a reply of a certain form, and what is printed of it.
FORMS = {
    "instructor": (
        "Where is the Louvre?",
        say('<tool_call>\n{"name": "City", "arguments": {"name": "Paris", "country": "France"}}\n</tool_call>'),
        "Paris",
    )
}
COMMANDS = {
    "dev": (sys.executable, "-c"),
    "python": (str(PYTHON_VENV / "bin" / "python"), "-c"),
    "agents": (str(AGENTS_VENV / "bin" / "python"), "-c"),
    "node": ("node", "--input-type=module", "--eval"),
}


def blocks(language: str) -> dict[str, str]:
    """The first block of code below each heading of the recipes in this language."""
    text = (ROOT / "docs" / "recipes" / f"{language}.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    found = {
        title: re.search(rf"^```{language}\n(.*?)^```", body, re.MULTILINE | re.DOTALL) for title, body in sections
    }
    return {title: block.group(1) for title, block in found.items() if block}


BLOCKS = {"node": blocks("javascript")} | dict.fromkeys(("dev", "python", "agents"), blocks("python"))
#: A client that speaks two APIs has one recipe.
RECIPES = {
    (client.home, client.title): BLOCKS[client.home][client.title]
    for client in chosen()
    if client.title in BLOCKS.get(client.home, {})
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server that has the starter model's name. It replies with the question, or with what the question scripts."""
    with fake("--alias", "smollm2-135m") as made:
        yield made


@pytest.mark.parametrize(("home", "title"), RECIPES, ids=[f"{home}: {title}" for home, title in RECIPES])
def test_a_recipe_works_as_it_stands(home: str, title: str, server: ServerProcess, tmp_path: Path) -> None:
    code = RECIPES[home, title]
    question, script, shown = FORMS.get(title, ("Hello!", "Hello!", "Hello!"))
    assert ADDRESS in code
    assert question in code
    code = code.replace(ADDRESS, f"127.0.0.1:{server.port}").replace(question, script.replace("\\", "\\\\"))
    done = subprocess.run(
        [*COMMANDS[home], code],
        cwd=NODE if home == "node" else tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown in done.stdout


def test_every_recipe_is_of_a_client_that_is_started() -> None:
    titles = {client.title for client in CLIENTS} | {"cohere (Python)"}  # tests/clients/test_rerankers.py
    assert set(BLOCKS["python"]) | set(BLOCKS["node"]) <= titles
