"""A model's name as Ollama's lists show it, ``NAME:latest``, on every route of every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from openai_wire import ask
from servers import ServerProcess, fake

USER = [{"role": "user", "content": "<say>ok</say>"}]
VERSION = {"anthropic-version": "2023-06-01"}

#: Bodies without a model, by path.
POSTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "<say>ok</say>"},
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["a"]},
    "/v2/rerank": {"query": "a", "documents": ["a"]},
    "/v1/responses": {"input": "<say>ok</say>"},
    "/v1/messages": {"messages": USER, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": USER},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
    "/apply-template": {"messages": USER},
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "<say>ok</say>"},
    "/api/embed": {"input": "a"},
    "/api/embeddings": {"prompt": "a"},
    "/api/show": {},
}


@pytest.mark.parametrize("path", POSTS)
def test_a_name_with_its_tag_is_the_served_model(scripted: ServerProcess, path: str) -> None:
    for name in ("fake", "fake:latest"):
        assert ask(scripted.port, "POST", path, {**POSTS[path], "model": name}).status == 200, name
    for name in ("fake:7b", "other:latest", ":latest", "fake:latest:latest"):
        assert ask(scripted.port, "POST", path, {**POSTS[path], "model": name}).status == 404, name


def test_one_model_is_found_by_its_tagged_name(scripted: ServerProcess) -> None:
    for headers in ({}, VERSION):
        assert ask(scripted.port, "GET", "/v1/models/fake:latest", headers=headers).json()["id"] == "fake"
        assert ask(scripted.port, "GET", "/v1/models/other:latest", headers=headers).status == 404


def test_aliases_have_tags_too() -> None:
    with fake("--aliases", "gpt-*", "--aliases", "tagged:latest") as server:
        for name in ("gpt-4o", "gpt-4o:latest", "tagged", "tagged:latest"):
            assert ask(server.port, "POST", "/v1/completions", {"prompt": "a", "model": name}).status == 200, name
