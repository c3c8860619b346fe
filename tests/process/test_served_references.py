"""The models of other programs' stores, served without copies and found by every dialect's names for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_pulls import pull_environment
from model_files import split
from model_stores import Stores
from pull_servers import pull_servers
from servers import serving
from tailrace.folders import cache_folder
from tailrace.models.model_reference import locate_model
from tailrace.settings import STARTER_MODEL

_CHAT = [{"role": "user", "content": "Hi."}]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The starter model as a set of shards in the hub's cache, in Ollama's store and in a folder."""
    folder = tmp_path_factory.mktemp("stores")
    stores = Stores(folder)
    starter = locate_model(STARTER_MODEL).path
    shards = split(starter, folder, 2, "Smol-Q4_1")
    stores.add_hub("org/Smol-GGUF", {shard.name: shard.read_bytes() for shard in shards})
    layers = {"system": b"Answer in one word.", "params": b'{"num_predict": 3, "temperature": 0}'}
    stores.add_ollama("registry.ollama.ai/library/smol/135m", starter.read_bytes(), layers=layers)
    (folder / "more").mkdir()
    (folder / "more" / "My Model.gguf").symlink_to(starter)
    (folder / "more" / "broken.gguf").write_bytes(b"GG")
    stores.home.mkdir()
    return stores


@pytest.fixture(scope="module")
def base(stores: Stores) -> Iterator[str]:
    more = stores.home.parent / "more"
    # The compiled kernels are in the user's cache.
    environment = {**stores.environment, "XDG_CACHE_HOME": str(cache_folder().parent)}
    flags = ("--all-models", "--models-dir", str(more), "--ctx", "256", "--parallel", "1", "--threads", "1")
    with serving(*flags, environment=environment) as server:
        yield f"http://127.0.0.1:{server.port}"


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(url, json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder, with size and time."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_everything_usable_is_listed(base: str) -> None:
    listed = [model["id"] for model in httpx.get(f"{base}/v1/models").json()["data"]]
    assert listed == ["My Model", "org/Smol-GGUF:Q4_1", "smol:135m"]


def test_the_hubs_shards_by_every_form_of_reference(base: str, stores: Stores) -> None:
    before = _files(stores.hub)
    for name in ("org/Smol-GGUF:Q4_1", "hf:org/smol-gguf:q4_1", "hf.co/org/Smol-GGUF:latest"):
        reply = _post(f"{base}/v1/chat/completions", {"model": name, "messages": _CHAT, "max_tokens": 2})
        assert reply["model"] == "org/Smol-GGUF:Q4_1"
        assert reply["usage"]["completion_tokens"] == 2
    assert _files(stores.hub) == before


def test_ollamas_model_with_its_parameters_in_each_dialect(base: str, stores: Stores) -> None:
    before = _files(stores.ollama)
    body = {"model": "Smol:135m", "messages": _CHAT, "stream": False}
    assert _post(f"{base}/api/chat", body)["eval_count"] <= 3
    plain = _post(f"{base}/v1/chat/completions", {"model": "ollama:smol:135m", "messages": _CHAT})
    assert plain["usage"]["completion_tokens"] <= 3
    instructed = [{"role": "system", "content": "Answer in one word."}, *_CHAT]
    explicit = _post(f"{base}/v1/chat/completions", {"model": "smol:135m", "messages": instructed})
    assert plain["usage"]["prompt_tokens"] == explicit["usage"]["prompt_tokens"]
    shown = _post(f"{base}/api/show", {"model": "smol:135m"})
    assert shown["system"] == "Answer in one word."
    assert "num_predict                    3" in shown["parameters"]
    message = _post(f"{base}/v1/messages", {"model": "smol:135m", "messages": _CHAT, "max_tokens": 2})
    assert message["usage"]["output_tokens"] <= 2
    assert _files(stores.ollama) == before


def test_a_file_of_the_folder_by_its_name(base: str) -> None:
    reply = _post(f"{base}/v1/chat/completions", {"model": "my model", "messages": _CHAT, "max_tokens": 2})
    assert reply["model"] == "My Model"


def test_models_that_are_not_here_are_pulled_first(tmp_path: Path) -> None:
    data = locate_model(STARTER_MODEL).path.read_bytes()
    flags = ("--ctx", "256", "--parallel", "1", "--threads", "1")
    with pull_servers() as (hub, registry, storage):
        hub.add("Smol-Q8_0.gguf", b"GGUF")
        hub.add("Smol-Q4_1.gguf", data)
        registry.add("model", storage.files[hub.files["Smol-Q4_1.gguf"].sha256])
        registry.add("params", b'{"num_predict": 3}')
        registry.add_config()
        environment = pull_environment(tmp_path, hub, registry) | {"XDG_CACHE_HOME": str(cache_folder().parent)}
        references = ("hf:org/repo:q4_1", "ollama:tiny:1b")
        with serving(*references, *flags, environment=environment) as server:
            assert "hf:org/repo:q4_1 isn't here: fetching it" in server.log
            url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
            for reference, name in zip(references, ("org/repo:Q4_1", "tiny:1b"), strict=True):
                reply = _post(url, {"model": reference, "messages": _CHAT, "max_tokens": 2})
                assert (reply["model"], reply["usage"]["completion_tokens"]) == (name, 2)
    # Without the servers of the files, too.
    with serving(*references, *flags, environment=environment) as server:
        assert "fetching" not in server.log


@pytest.mark.parametrize("name", ["hf:org/other", "ollama:smol:1b", "../more/broken.gguf", "/etc/passwd", "broken"])
def test_what_is_not_served_is_not_found(base: str, name: str) -> None:
    answer = httpx.post(f"{base}/v1/chat/completions", json={"model": name, "messages": _CHAT}, timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
