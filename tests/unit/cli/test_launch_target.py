"""What servers of several kinds say of their model, and how it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.cli.launch_target import find_model
from tailrace.cli.server_client import NoAnswer, Refused, ServerClient
from tailrace.errors import ConfigurationError


class Server(ServerClient):
    """Answers from a table of routes; others are 404."""

    def __init__(self, **routes: Any) -> None:
        super().__init__("http://host:1/v1")
        self._routes = routes

    def get(self, path: str) -> tuple[int, bytes]:
        found = self._routes.get(path.rpartition("/")[2])
        if isinstance(found, Exception):
            raise found
        return (404, b"no such route") if found is None else (200, json.dumps(found).encode())

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        return self.get(path)


def models(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(entries)}


@pytest.mark.parametrize(
    ("server", "context", "tools", "trained"),
    [
        (  # tailrace
            Server(
                models=models({"id": "m", "max_model_len": 4096, "meta": {"n_ctx": 1, "n_ctx_train": 8192}}),
                show={"capabilities": ["completion", "tools"]},
            ),
            4096,
            True,
            8192,
        ),
        (Server(models=models({"id": "m", "max_model_len": 4096})), 4096, None, None),  # vLLM
        (  # llama-server
            Server(
                models=models({"id": "m", "meta": {"n_ctx_train": 8192}}),
                props={"default_generation_settings": {"n_ctx": 2048}},
                show=NoAnswer("it has none"),
            ),
            2048,
            None,
            8192,
        ),
        (  # Ollama
            Server(
                models=models({"id": "m"}),
                show={
                    "capabilities": ["completion"],
                    "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
                },
            ),
            None,
            False,
            4096,
        ),
        (Server(models=models({"id": "m", "meta": 7, "max_model_len": "many"}), show=[], props=3), None, None, None),
    ],
)
def test_context_tools_and_training_are_read_where_the_server_says_them(
    server: Server, context: int | None, tools: bool | None, trained: int | None
) -> None:
    found = find_model(server, None)
    assert (found.target.root, found.target.model) == ("http://host:1", "m")
    assert (found.target.context, found.tools, found.trained) == (context, tools, trained)


def test_another_models_context_is_not_taken_for_this_ones() -> None:
    server = Server(models=models({"id": "a"}, {"id": "b"}), props={"default_generation_settings": {"n_ctx": 2048}})
    assert find_model(server, "b").target.model == "b"
    assert find_model(server, "b").target.context is None


def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"doesn't serve 'c'; it has a, b"):
        find_model(Server(models=models({"id": "a"}, {"id": "b"})), "c")
    with pytest.raises(Refused, match="serves no model"):
        find_model(Server(models=models()), None)
    with pytest.raises(Refused, match="in no form of OpenAI's"):
        find_model(Server(models={"data": "none"}), None)
