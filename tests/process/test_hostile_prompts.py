"""Prompts that crash llama.cpp's tokenizer, or take minutes, on every route: the engine goes on, and serves others.

The model is a copy of the starter model with gpt-4o's pre-tokenizer, whose regular expression overflows the stack.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from model_files import with_pairs
from openai_wire import Connection, ask
from servers import ServerProcess, serving, wait_for
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

#: 3,750 tokens and more: too many for the context, which is told by their number, once they are known.
LONG = {"letters": "A" * 30_000} | {
    name: character * 40_000 for name, character in {"dashes": "-", "spaces": " ", "lines": "\n", "cjk": "漢"}.items()
}
#: Each of its stretches makes the regular expression anew: seconds of work, which end by the bound on CPU alone.
SLOW = "".join(f"<|im_start|>{number}" for number in range(40_000))


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


#: Every route that tokenises, with the field that is at fault.
ROUTES: dict[str, tuple[str, Any, str | None]] = {
    "completion": ("/v1/completions", lambda text: {"prompt": text}, "prompt"),
    "suffix": ("/v1/completions", lambda text: {"prompt": "a", "suffix": text}, "suffix"),
    "echo": ("/v1/completions", lambda text: {"prompt": text, "echo": True, "max_tokens": 0, "logprobs": 1}, "prompt"),
    "chat": ("/v1/chat/completions", lambda text: {"messages": _user(text)}, "messages"),
    "messages": ("/v1/messages", lambda text: {"model": "m", "max_tokens": 4, "messages": _user(text)}, None),
    "responses": ("/v1/responses", lambda text: {"input": text}, "input"),
    "embeddings": ("/v1/embeddings", lambda text: {"model": "m", "input": [text, "a"]}, "input"),
    "ollama-generate": ("/api/generate", lambda text: {"model": "m", "prompt": text, "truncate": False}, None),
    "ollama-chat": ("/api/chat", lambda text: {"model": "m", "messages": _user(text), "truncate": False}, None),
    "ollama-embed": ("/api/embed", lambda text: {"model": "m", "input": text, "truncate": False}, None),
    "llama-server": ("/completion", lambda text: {"prompt": text}, "prompt"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    marks = {f"tokenizer.ggml.fim_{name}_token_id": token for name, token in (("pre", 3), ("suf", 4), ("mid", 5))}
    path = tmp_path_factory.mktemp("models") / "gpt-4o.gguf"
    with_pairs(locate_model(STARTER_MODEL).path, path, marks, pre="gpt-4o")
    options = ("--ctx", "256", "--parallel", "2", "--threads", "1", "--aliases", "m")
    with serving(str(path), *options) as running:
        yield running


@pytest.fixture(autouse=True)
def lives(server: ServerProcess) -> Iterator[None]:
    """At its end, each test has the same engine as at its start, and it answers."""
    engine = server.engine
    yield
    assert server.engine == engine, server.log
    assert ask(server.port, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200


@pytest.mark.parametrize("route", ROUTES)
def test_long_runs_do_not_stop_other_requests(server: ServerProcess, route: str) -> None:
    path, body, param = ROUTES[route]
    for name, text in LONG.items():
        reply = ask(server.port, "POST", path, body(text))
        assert reply.status == 400, (name, reply.body[:500])
        told = json.loads(reply.body)
        if param is not None:
            assert told["error"]["param"] == param, (name, told)
            assert told["error"]["code"] in ("context_length_exceeded", 400, None), (name, told)


def test_long_runs_have_tokens(server: ServerProcess) -> None:
    for name, text in LONG.items():
        tokens = ask(server.port, "POST", "/tokenize", {"content": text}).json()["tokens"]
        back = ask(server.port, "POST", "/detokenize", {"tokens": tokens}).json()["content"]
        assert back == text, name


def test_a_prediction_may_be_long(server: ServerProcess) -> None:
    body = {"prompt": "a", "max_tokens": 1, "prediction": {"type": "content", "content": "A" * 30_000}}
    reply = ask(server.port, "POST", "/v1/chat/completions", {"messages": _user("a"), **body})
    assert reply.status == 200, reply.body[:500]


def test_forced_text_may_be_long(server: ServerProcess) -> None:
    """A grammar's forced text is tokenised as well, on a thread of the engine's."""
    schema = {"type": "object", "properties": {"a": {"const": "A" * 60_000}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"messages": _user("a"), "max_tokens": 8, "response_format": form}
    assert ask(server.port, "POST", "/v1/chat/completions", body).status in (200, 400)


def test_a_text_that_takes_too_long_is_refused_with_its_field(server: ServerProcess) -> None:
    error = ask(server.port, "POST", "/tokenize", {"content": SLOW[:200_000]}).error()
    assert error["param"] == "content"
    assert "can't be tokenised" in error["message"]


def test_others_are_served_meanwhile_and_hanging_up_ends_the_work(server: ServerProcess) -> None:
    specials = "<|im_start|>" * 80_000  # 960 KB: minutes with llama.cpp's own search.
    for path, body in (
        ("/v1/chat/completions", {"messages": _user(specials)}),
        ("/v1/completions", {"prompt": specials}),
    ):
        with Connection(server.port) as waiting:
            waiting.request("POST", path, body)
            assert ask(server.port, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
            assert waiting.read().status == 400
    refused = server.log.count("can't be tokenised")
    with Connection(server.port) as leaving:
        # As a prompt it would be refused at once: it has more special tokens than the context.
        leaving.request("POST", "/tokenize", {"content": SLOW[:200_000]})
        wait_for("its process", lambda: bool(_niced(server)))
        # Beside it, another that is long, and one that is not: neither waits for it.
        assert len(ask(server.port, "POST", "/tokenize", {"content": "a b " * 20_000}).json()["tokens"]) > 20_000
        assert ask(server.port, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
        assert ask(server.port, "GET", "/health").status == 200
        assert _niced(server), "it still works, so they were served beside it"
    wait_for("its end", lambda: not _niced(server))
    assert server.log.count("can't be tokenised") == refused, "it was ended and not refused"


def _niced(server: ServerProcess) -> list[str]:
    """The tokenizer's workers that do a long job: they have a lower priority."""
    shown = subprocess.run(
        ["ps", "-axwwo", "pid=,ppid=,ni=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 4) for line in shown.splitlines()]
    below = {str(server.engine)}
    for _ in range(2):
        below |= {pid for pid, parent, *_ in rows if parent in below}
    workers = [row for row in rows if row[0] in below and "tokenize_worker" in row[4] and not row[3].startswith("Z")]
    return [pid for pid, _, nice, *_ in workers if nice == "6"]
