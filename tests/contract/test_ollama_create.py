"""Models that clients make of others: what they change, in every dialect; who may make them; that they last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from ollama_wire import lines
from openai_wire import Reply, ask
from servers import ServerProcess, fake

SYSTEM = "You are Mario."


def making(store: Path, *arguments: str) -> Any:
    return fake("--manage-models", "--ctx", "4000", *arguments, models=str(store))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def maker(store: Path) -> Iterator[ServerProcess]:
    with making(store) as server:
        yield server


def create(server: ServerProcess, name: str, **fields: object) -> Reply:
    return ask(server.port, "POST", "/api/create", {"model": name, "stream": False, **fields})


def made(server: ServerProcess, name: str, **fields: object) -> str:
    reply = create(server, name, **{"from": "fake", **fields})
    assert (reply.status, reply.json()) == (200, {"status": "success"}), reply.body
    return name


def names(server: ServerProcess) -> list[str]:
    return [row["name"] for row in ask(server.port, "GET", "/api/tags").json()["models"]]


def delete(server: ServerProcess, name: str) -> int:
    return ask(server.port, "DELETE", "/api/delete", {"model": name}).status


def post(server: ServerProcess, path: str, **body: object) -> Any:
    reply = ask(server.port, "POST", path, body)
    assert reply.status == 200, reply.body
    return reply.json()


def said(server: ServerProcess, path: str, **body: object) -> str:
    """What the model says, in whichever dialect: the scripted backend says the prompt."""
    told = post(server, path, **body)
    if "choices" in told:
        choice = told["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    if "output" in told:
        return str(told["output"][0]["content"][0]["text"])
    if "content" in told:
        return str(told["content"][0]["text"])
    return str(told["message"]["content"] if "message" in told else told["response"])


HELLO = [{"role": "user", "content": "hi"}]
#: A conversation of one message in each dialect.
ASKED: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": HELLO, "stream": False},
    "/api/generate": {"prompt": "hi", "stream": False},
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 500},
}


@pytest.mark.parametrize("path", ASKED)
def test_its_system_text_begins_every_conversation(maker: ServerProcess, path: str) -> None:
    made(maker, "mario", system=SYSTEM)
    for name in ("mario", "mario:latest"):
        assert said(maker, path, model=name, **ASKED[path]) == f"[system]{SYSTEM}\n[user]hi\n"
    assert said(maker, path, model="fake", **ASKED[path]) == "[user]hi\n"


def test_a_conversations_own_system_text_wins(maker: ServerProcess) -> None:
    made(maker, "mario", system=SYSTEM)
    own = [{"role": "system", "content": "own"}, *HELLO]
    assert said(maker, "/api/chat", model="mario", messages=own, stream=False) == "[system]own\n[user]hi\n"
    assert said(maker, "/v1/chat/completions", model="mario", messages=own) == "[system]own\n[user]hi\n"
    told = said(maker, "/api/generate", model="mario", prompt="hi", system="own", stream=False)
    assert told == "[system]own\n[user]hi\n"


def test_its_messages_and_template(maker: ServerProcess) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    made(maker, "taught", system="s", messages=messages, template=template)
    for path, body in ASKED.items():
        assert said(maker, path, model="taught", **body) == "<system>s<user>a<assistant>b<user>hi"


@pytest.mark.parametrize("path", ASKED)
def test_its_parameters_are_defaults(maker: ServerProcess, path: str) -> None:
    made(maker, "short", parameters={"stop": ["i"], "num_ctx": 4096, "temperature": 0.5, "seed": 3.0})
    assert said(maker, path, model="short", **ASKED[path]) == "[user]h"
    made(maker, "three", parameters={"num_predict": 3})
    body = {name: value for name, value in ASKED[path].items() if name != "max_tokens"}
    if path != "/v1/messages":
        assert said(maker, path, model="three", **body) == "[us"
    given = {"max_output_tokens": 4, "max_tokens": 4, "options": {"num_predict": 4}}
    assert said(maker, path, model="three", **{**body, **given}) == "[use"


def test_text_completions_get_only_the_parameters(maker: ServerProcess) -> None:
    made(maker, "mario", system=SYSTEM, parameters={"num_predict": 3})
    assert said(maker, "/v1/completions", model="mario", prompt="hello") == "hel"


def test_a_modelfile_equals_the_fields(maker: ServerProcess) -> None:
    text = (
        '# a comment\nFROM fake:latest\nPARAMETER temperature 1\nPARAMETER stop "AI assistant:"\nPARAMETER stop </s>\n'
        'PARAMETER num_predict 50\nsystem """You are\nMario."""\n'
        'MESSAGE user a\nMESSAGE assistant """b"""\nLICENSE MIT\n'
    )
    reply = ask(maker.port, "POST", "/api/create", {"name": "filed", "modelfile": text})
    assert [entry["status"] for entry in lines(reply)][-1] == "success"
    shown = post(maker, "/api/show", model="filed")
    assert (shown["system"], shown["license"]) == ("You are\nMario.", "MIT")
    assert shown["messages"] == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert shown["details"]["parent_model"] == "fake:latest"
    parameters = [line.split(None, 1) for line in shown["parameters"].splitlines()]
    assert [value for name, value in parameters if name == "stop"] == ["AI assistant:", "</s>"]
    assert ["num_predict", "50"] in parameters
    # What it shows makes the same again.
    reply = ask(maker.port, "POST", "/api/create", {"model": "again", "stream": False, "modelfile": shown["modelfile"]})
    assert reply.status == 200, reply.body
    again = post(maker, "/api/show", model="again")
    assert {key: again[key] for key in ("system", "messages", "license", "parameters")} == {
        key: shown[key] for key in ("system", "messages", "license", "parameters")
    }


def test_one_made_of_one_that_was_made(maker: ServerProcess) -> None:
    made(maker, "mario", system=SYSTEM, parameters={"num_predict": 40, "top_k": 3})
    reply = create(maker, "luigi", **{"from": "mario:latest", "parameters": {"num_predict": 3}})
    assert reply.status == 200
    assert said(maker, "/api/chat", model="luigi", messages=HELLO, stream=False) == "[sy"
    assert "top_k                          3" in post(maker, "/api/show", model="luigi")["parameters"]


def test_copies_are_listed_served_and_deleted(maker: ServerProcess) -> None:
    made(maker, "mario", system=SYSTEM)
    for source, destination in (("mario", "copied"), ("fake", "plain:v2")):
        reply = ask(maker.port, "POST", "/api/copy", {"source": source, "destination": destination})
        assert (reply.status, reply.body) == (200, b"")
    assert {"mario:latest", "copied:latest", "plain:v2"} < set(names(maker))
    assert names(maker)[0] == "fake:latest"
    assert said(maker, "/api/chat", model="copied", messages=HELLO, stream=False).startswith("[system]You are Mario.")
    assert said(maker, "/v1/chat/completions", model="plain:v2", messages=HELLO) == "[user]hi\n"
    rows = {row["name"]: row for row in ask(maker.port, "GET", "/api/tags").json()["models"]}
    assert rows["copied:latest"]["details"]["parent_model"] == "fake:latest"
    assert len({row["digest"] for row in rows.values()}) == len(rows)
    assert [delete(maker, name) for name in ("copied", "plain:v2", "copied")] == [200, 200, 404]
    assert not {"copied:latest", "plain:v2"} & set(names(maker))
    assert ask(maker.port, "POST", "/v1/chat/completions", {"model": "copied", "messages": HELLO}).status == 404


def test_the_other_dialects_list_them(maker: ServerProcess) -> None:
    made(maker, "listed", system=SYSTEM)
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        data = ask(maker.port, "GET", "/v1/models", headers=headers).json()["data"]
        assert (data[0]["id"], "listed" in [row["id"] for row in data]) == ("fake", True)
        for name in ("listed", "listed:latest"):
            assert ask(maker.port, "GET", f"/v1/models/{name}", headers=headers).json()["id"] == "listed"


def test_ollamas_own_client_makes_and_copies(maker: ServerProcess) -> None:
    with ollama.Client(host=f"http://127.0.0.1:{maker.port}") as client:
        assert client.create("clients", from_="fake", system=SYSTEM, parameters={"num_predict": 7}).status == "success"
        assert [part.status for part in client.create("clients", from_="fake", system=SYSTEM, stream=True)][
            -1
        ] == "success"
        assert client.copy("clients", "client-copy").status == "success"
        reply = client.chat("client-copy", [{"role": "user", "content": "hi"}])
        assert (reply.message.content or "").startswith(f"[system]{SYSTEM}")
        assert "client-copy:latest" in [model.model for model in client.list().models]
        assert f"SYSTEM {SYSTEM}" in (client.show("client-copy").modelfile or "")
        assert client.delete("client-copy").status == "success"


def test_an_entry_is_bounded(maker: ServerProcess) -> None:
    reply = create(maker, "large", **{"from": "fake", "system": "x" * 1_000_001})
    assert (reply.status, "1,000,000 bytes" in reply.json()["error"]) == (400, True)


def test_entries_last(maker: ServerProcess, store: Path) -> None:
    made(maker, "team/lasting:v1", system=SYSTEM)
    with making(store) as other:
        assert "team/lasting:v1" in names(other)
        assert said(other, "/api/chat", model="team/lasting:v1", messages=HELLO, stream=False).startswith("[system]")


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({}, 400, "from"),
        ({"from": "unknown"}, 404, "unknown"),
        ({"from": "/etc/passwd"}, 404, "passwd"),
        ({"from": "fake", "template": "{{ .Prompt }}"}, 400, "template"),
        ({"from": "fake", "template": "{{- if .System }}{{ .System }}{{ end }}"}, 400, "template"),
        ({"from": "fake", "template": "{% for %}"}, 400, "template"),
        ({"from": "fake", "parameters": {"colour": 1}}, 400, "colour"),
        ({"from": "fake", "parameters": {"temperature": "hot"}}, 400, "temperature"),
        ({"from": "fake", "messages": [{"role": "tool", "content": "x"}]}, 400, "messages"),
        ({"from": "fake", "files": {"a.gguf": "sha256:0"}}, 400, "files"),
        ({"from": "fake", "adapters": {"a": "b"}}, 400, "adapters"),
        ({"from": "fake", "quantize": "q4_0"}, 400, "quantize"),
        ({"modelfile": "FROM fake\nADAPTER x"}, 400, "ADAPTER"),
        ({"modelfile": 'FROM fake\nSYSTEM """open'}, 400, "modelfile"),
        ({"modelfile": "nonsense"}, 400, "modelfile"),
    ],
)
def test_what_cant_be_made_is_refused_by_name(
    maker: ServerProcess, fields: dict[str, object], status: int, named: str
) -> None:
    reply = create(maker, "wrong", **fields)
    assert (reply.status, named in reply.json()["error"]) == (status, True), reply.body
    assert "wrong:latest" not in names(maker)


@pytest.mark.parametrize(
    "name", ["fake", "fake:latest", "../up", ".hidden", "a b", "a/b/c/d", "x" * 300, "a:b:c", "a\0"]
)
def test_names_that_cant_be_given(maker: ServerProcess, store: Path, name: str) -> None:
    for reply in (
        create(maker, name, **{"from": "fake"}),
        ask(maker.port, "POST", "/api/copy", {"source": "fake", "destination": name}),
    ):
        assert reply.status in (400, 403), reply.body
    assert all(path.parent.name in (".entries", store.name) for path in store.rglob("*"))


def test_making_has_to_be_allowed(scripted: ServerProcess) -> None:
    for path, body in (
        ("/api/create", {"model": "a", "from": "fake"}),
        ("/api/copy", {"source": "fake", "destination": "a"}),
    ):
        reply = ask(scripted.port, "POST", path, body)
        assert (reply.status, "--manage-models" in reply.json()["error"]) == (403, True)


def test_an_entry_that_cant_be_read_is_left_out(store: Path) -> None:
    folder = store / "other"
    (folder / ".entries").mkdir(parents=True)
    (folder / ".entries" / "broken.json").write_text("{", "utf-8")
    (folder / ".entries" / "good.json").write_text(json.dumps({"base": "fake", "system": "s"}), "utf-8")
    with making(folder) as server:
        assert names(server) == ["fake:latest", "good:latest"]
        assert said(server, "/api/chat", model="good", messages=HELLO, stream=False) == "[system]s\n[user]hi\n"
