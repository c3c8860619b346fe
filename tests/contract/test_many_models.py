"""Several models behind one port: each dialect's request reaches the model that it names, and says which one it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openai_wire import Reply, ask
from servers import ServerProcess, fake, replace_http_process, wait_for
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, new_key, now

USER = [{"role": "user", "content": "<say>ok</say>"}]
VERSION = {"anthropic-version": "2023-06-01"}

#: Two models that differ in what replies show: their contexts and numbers of slots, and their defaults.
CONFIG = """
models_mb = 2000

[models.first]
ctx = 1000
parallel = 2
aliases = ["any-*"]

[models.second]
ctx = 2000
parallel = 3
aliases = ["any-second"]
system_prompt = "SECOND"
sampling = { temperature = 0.0, stop = ["END"], num_predict = 7, top_k = 5 }
"""

KEYED = ("first", "second")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("many") / "config.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def many(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Both are loaded when a test begins, but for those of loading."""
    store = str(tmp_path_factory.mktemp("store"))
    with fake("--config", str(config), "--manage-models", models=store) as server:
        yield server


def post(server: ServerProcess, path: str, body: dict[str, Any], **options: Any) -> Reply:
    return ask(server.port, "POST", path, body, **options)


#: Requests, and where their reply has the model's name.
NAMED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "<say>ok</say>"},
    "/v1/embeddings": {"input": "a"},
    "/v1/responses": {"input": "<say>ok</say>"},
    "/v1/messages": {"messages": USER, "max_tokens": 5},
    "/completion": {"prompt": "<say>ok</say>"},
    "/api/chat": {"messages": USER, "stream": False},
    "/api/generate": {"prompt": "<say>ok</say>", "stream": False},
    "/api/embed": {"input": "a"},
}


@pytest.mark.parametrize("path", NAMED)
def test_a_reply_is_the_named_models(many: ServerProcess, path: str) -> None:
    for name in ("first", "second"):
        reply = post(many, path, {**NAMED[path], "model": name})
        assert reply.status == 200, reply.body
        assert reply.json()["model"] == name
    assert post(many, path, {**NAMED[path], "model": "SECOND:latest"}).status == 200
    if path != "/v1/messages":  # Its model is required.
        default = post(many, path, NAMED[path]).json()["model"]
        assert default.removesuffix(":latest") == "first"
    refused = post(many, path, {**NAMED[path], "model": "third"})
    assert refused.status == 404
    assert b"'first'" in refused.body, "it lists served ones"
    assert b"'second'" in refused.body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_an_alias_gets_the_name_of_the_model_that_answers(many: ServerProcess, path: str) -> None:
    assert post(many, path, {**NAMED[path], "model": "any-thing"}).json()["model"] == "first"
    assert post(many, path, {**NAMED[path], "model": "any-second"}).json()["model"] == "second"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_streams_are_of_the_named_model(many: ServerProcess, path: str) -> None:
    for name in ("first", "second"):
        reply = post(many, path, {**NAMED[path], "model": name, "stream": True})
        assert reply.status == 200
        events = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
        inner = [event.get("message") or event.get("response") or event for event in events]
        assert {event["model"] for event in inner if "model" in event} == {name}


def test_each_model_has_its_own_context(many: ServerProcess) -> None:
    prompt = "x" * 1500
    for path, body in (
        ("/v1/completions", {"prompt": prompt, "max_tokens": 1}),
        ("/completion", {"prompt": prompt, "n_predict": 1}),
        ("/v1/embeddings", {"input": prompt}),
        ("/v1/messages", {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1}),
        ("/v1/responses", {"input": prompt, "max_output_tokens": 1}),
    ):
        assert post(many, path, {**body, "model": "first"}).status == 400, path
        assert post(many, path, {**body, "model": "second"}).status == 200, path


def test_routes_about_texts_ask_the_named_model(many: ServerProcess) -> None:
    counted: dict[str, tuple[dict[str, Any], str]] = {
        "/tokenize": ({"prompt": "abc"}, "count"),
        "/v1/messages/count_tokens": ({"messages": USER}, "input_tokens"),
        "/v1/responses/input_tokens": ({"input": "abc"}, "input_tokens"),
        "/v1/chat/completions/input_tokens": ({"messages": USER}, "input_tokens"),
    }
    for path, (body, field) in counted.items():
        first, second = (post(many, path, {**body, "model": name}).json()[field] for name in ("first", "second"))
        # The second one's system prompt is in its conversations.
        assert (first == second) if path == "/tokenize" else (first < second), path


def test_properties_and_slots_are_of_the_named_model(many: ServerProcess) -> None:
    for name, context, slots in (("first", 1000, 2), ("second", 2000, 3)):
        assert post(many, "/v1/completions", {"model": name, "prompt": "a", "max_tokens": 1}).status == 200
        found = ask(many.port, "GET", f"/props?model={name}").json()
        assert (found["model_alias"], found["total_slots"]) == (name, slots)
        assert found["default_generation_settings"]["n_ctx"] == context
        assert len(ask(many.port, "GET", f"/slots?model={name}").json()) == slots
    assert ask(many.port, "GET", "/props").json()["model_alias"] == "first"
    assert ask(many.port, "GET", "/props?model=third").status == 404


def test_lists_have_both(many: ServerProcess) -> None:
    listed = ask(many.port, "GET", "/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["first", "second"]
    assert [entry["name"] for entry in listed["models"]] == ["first", "second"]
    anthropic = ask(many.port, "GET", "/v1/models", headers=VERSION).json()
    assert [entry["id"] for entry in anthropic["data"]] == ["first", "second"]
    tags = ask(many.port, "GET", "/api/tags").json()
    assert [entry["name"] for entry in tags["models"]] == ["first:latest", "second:latest"]
    assert ask(many.port, "GET", "/v1/models/second").json()["id"] == "second"
    assert ask(many.port, "GET", "/v1/models/third").status == 404
    shown = post(many, "/api/show", {"model": "second"}).json()
    assert "num_ctx                        2000" in shown["parameters"]


# A model's own defaults


def said(many: ServerProcess, path: str, body: dict[str, Any]) -> str:
    reply = post(many, path, body)
    assert reply.status == 200, reply.body
    # llama-server repeats the prompt.
    return str(reply.json()["content"]) if path == "/completion" else reply.body.decode()


@pytest.mark.parametrize(
    ("path", "body", "own"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "<say>one END two</say>"}]}, "stop"),
        ("/v1/completions", {"prompt": "<say>one END two</say>"}, "stop"),
        ("/v1/responses", {"input": "<say>one END two</say>"}, "stop"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": "<say>one END two</say>"}], "max_tokens": 50},
            "stop_sequences",
        ),
        ("/completion", {"prompt": "<say>one END two</say>"}, "stop"),
        (
            "/api/chat",
            {"messages": [{"role": "user", "content": "<say>one END two</say>"}], "stream": False},
            "options",
        ),
        ("/api/generate", {"prompt": "<say>one END two</say>", "stream": False}, "options"),
    ],
)
def test_sampling_defaults_hold_in_every_dialect_unless_the_request_sets_them(
    many: ServerProcess, path: str, body: dict[str, Any], own: str
) -> None:
    assert "two" in said(many, path, {**body, "model": "first"})
    reply = said(many, path, {**body, "model": "second"})
    assert "one" in reply
    assert "two" not in reply
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    limits = {"options": {"stop": ["zzz"], "num_predict": 50}} if own == "options" else {own: ["zzz"], limit: 50}
    assert "two" in said(many, path, {**body, "model": "second", **limits})


def test_the_system_prompt_is_for_conversations_without_one(many: ServerProcess) -> None:
    own = [{"role": "system", "content": "OWN"}, *USER]
    for name, messages, expected in (("first", USER, []), ("second", USER, ["SECOND"]), ("second", own, ["OWN"])):
        prompt = post(many, "/apply-template", {"model": name, "messages": messages}).json()["prompt"]
        assert [word for word in ("SECOND", "OWN") if word in prompt] == expected


def test_a_derived_model_is_served_by_its_base_and_wins_over_its_defaults(many: ServerProcess) -> None:
    made = {"model": "mine", "from": "second", "system": "DERIVED", "parameters": {"stop": ["two"]}, "stream": False}
    assert post(many, "/api/create", made).status == 200
    prompt = post(many, "/apply-template", {"model": "mine", "messages": USER}).json()["prompt"]
    assert ("DERIVED" in prompt, "SECOND" in prompt) == (True, False)
    body = {"model": "mine:latest", "messages": [{"role": "user", "content": "<say>one END two</say>"}]}
    chat = post(many, "/v1/chat/completions", {**body, "max_tokens": 50}).json()
    assert chat["model"] == "second"
    assert chat["choices"][0]["message"]["content"] == "one END "
    names = [entry["id"] for entry in ask(many.port, "GET", "/v1/models").json()["data"]]
    assert names == ["first", "second", "mine"]
    copied = post(many, "/api/copy", {"source": "mine", "destination": "copied"})
    assert copied.status == 200
    assert (
        post(many, "/v1/completions", {"model": "copied", "prompt": "a", "max_tokens": 1}).json()["model"] == "second"
    )
    for name in ("mine", "copied"):
        assert ask(many.port, "DELETE", "/api/delete", {"model": name}).status == 200
    assert post(many, "/v1/completions", {"model": "mine", "prompt": "a"}).status == 404
    assert post(many, "/api/create", {**made, "model": "first"}).status == 403, "a served model has this name"


# Health, metrics, statistics


def metrics(server: ServerProcess) -> dict[tuple[str, str], float]:
    """By name and model; sums over other labels."""
    text = ask(server.port, "GET", "/metrics").body.decode()
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("model_name", "")
            found[key] = found.get(key, 0.0) + sample.value
    return found


def test_what_isnt_loaded_is_neither_in_the_way_of_health_nor_missing_in_metrics(config: Path) -> None:
    with fake("--config", str(config)) as server:
        health = ask(server.port, "GET", "/health").json()
        assert health == {"status": "ok", "models": 2, "models_loaded": 1}
        assert ask(server.port, "GET", "/slots?model=second").json() == []
        before = metrics(server)
        assert [before["tailrace:model_loaded", name] for name in KEYED] == [1, 0]
        assert [before["tailrace:model_loads_total", name] for name in KEYED] == [1, 0]
        assert before["tailrace:ready", ""] == 1
        for name in KEYED:
            assert before["vllm:prompt_tokens_total", name] == 0
            assert before["tailrace:engine_steps_total", name] == 0
        body = {"model": "second", "prompt": "<say>ok</say>", "max_tokens": 4}
        assert post(server, "/v1/completions", body).status == 200
        after = metrics(server)
        assert after["vllm:request_success_total", "second"] == 1
        assert after["vllm:request_success_total", "first"] == 0
        assert after["tailrace:model_loaded", "second"] == 1
        assert after["tailrace:model_load_seconds_total", "second"] > 0
        running = ask(server.port, "GET", "/api/ps").json()["models"]
        assert [entry["name"] for entry in running] == ["first:latest", "second:latest"]
        assert ask(server.port, "GET", "/health").json()["models_loaded"] == 2

        def shown() -> list[str]:
            return [engine["model"] for engine in ask(server.port, "GET", "/stats").json()["engines"]]

        wait_for("the next sample", lambda: shown() == ["first", "second"])
        stats = ask(server.port, "GET", "/stats").json()
        assert stats["requests"]["slots"] == 5
        roles = {process["role"] for process in stats["processes"]}
        assert {"engine first", "engine second"} <= roles
        (line,) = [line for line in server.log.splitlines() if "route=/completions" in line]
        assert "model=second" in line


def test_a_key_for_one_model_finds_no_other(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, record = new_key(KeyRecord(name="k", id="", sha256="", created=now(), models=("second",)))
    KeysFile(file).add(record)
    with fake("--config", str(config), "--keys-file", str(file)) as server:
        headers = {"authorization": f"Bearer {key}"}
        assert "model" not in ask(server.port, "GET", "/health").json()
        for path, body in NAMED.items():
            assert post(server, path, {**body, "model": "second"}, headers=headers).status == 200, path
            refused = post(server, path, {**body, "model": "first"}, headers=headers)
            assert refused.status == 404, path
            assert b"'second'" in refused.body, path
            if path != "/v1/messages":
                unnamed = post(server, path, body, headers=headers).json()["model"]
                assert unnamed.removesuffix(":latest") == "second", path
        data = ask(server.port, "GET", "/v1/models", headers=headers).json()
        assert [entry["id"] for entry in data["data"]] == ["second"]
        assert [entry["name"] for entry in data["models"]] == ["second"]
        for path in ("/api/tags", "/api/ps"):
            models = ask(server.port, "GET", path, headers=headers).json()["models"]
            assert [entry["name"] for entry in models] == ["second:latest"], path
        assert ask(server.port, "GET", "/v1/models/first", headers=headers).status == 404


def test_a_key_for_an_alias_reaches_its_model_by_the_alias_alone(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, record = new_key(KeyRecord(name="k", id="", sha256="", created=now(), models=("any-second",)))
    KeysFile(file).add(record)
    with fake("--config", str(config), "--keys-file", str(file)) as server:
        headers = {"authorization": f"Bearer {key}"}
        rerank = {"/v1/rerank": {"query": "a", "documents": ["a", "b"]}}
        for path, body in (NAMED | rerank).items():
            assert post(server, path, {**body, "model": "any-second"}, headers=headers).status == 200, path
            assert post(server, path, {**body, "model": "second"}, headers=headers).status == 404, path


def test_a_look_at_slots_neither_loads_a_model_nor_keeps_it(config: Path) -> None:
    with fake("--config", str(config), idle_seconds="1") as server:
        body = {"model": "second", "prompt": "<say>ok</say>", "max_tokens": 4}
        assert post(server, "/v1/completions", body).status == 200
        assert len(ask(server.port, "GET", "/slots?model=second").json()) == 3

        def has_gone() -> bool:
            return not ask(server.port, "GET", "/slots?model=second").json()

        wait_for("the unload of a model that is looked at all the time", has_gone)
        assert ask(server.port, "GET", "/slots?model=second").json() == []
        assert metrics(server)["tailrace:model_loads_total", "second"] == 1


def loaded(server: ServerProcess) -> int | None:
    """How many models are loaded; None while nothing answers."""
    with contextlib.suppress(OSError, AssertionError, ValueError):
        found: int = ask(server.port, "GET", "/health").json()["models_loaded"]
        return found
    return None


def starts(server: ServerProcess, process: str) -> float:
    """How often the supervisor has started a process."""
    text = ask(server.port, "GET", "/metrics").body.decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    (found,) = [each.value for each in samples if each.labels == {"process": process} and "starts_total" in each.name]
    return found


def test_a_new_http_process_takes_up_the_engines_that_run(config: Path) -> None:
    with fake("--config", str(config)) as server:
        body = {"prompt": "<say>ok</say>", "max_tokens": 4}
        for name in KEYED:
            assert post(server, "/v1/completions", {**body, "model": name}).status == 200
        replace_http_process(server)
        wait_for("both models", lambda: loaded(server) == 2)
        for name in KEYED:
            assert post(server, "/v1/completions", {**body, "model": name}).status == 200
        assert starts(server, "engine second") == 1, "it wasn't loaded again"

        # The first one starts with the server. A new HTTP process finds it unloaded.
        assert post(server, "/api/generate", {"model": "first", "keep_alive": 0, "stream": False}).status == 200
        wait_for("the unloading", lambda: loaded(server) == 1)
        replace_http_process(server)
        wait_for("the other model", lambda: loaded(server) == 1)
        assert post(server, "/v1/completions", {**body, "model": "first"}).status == 200
