"""Pulls from an Ollama registry: the folder afterwards, tokens, and models that can't be served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local_pulls import LocalPulls, files_below
from model_files import tiny_gguf
from pull_servers import Content, Storage
from tailrace.errors import PullFailed

MODEL = tiny_gguf(weights=bytes(range(256)) * 2000)
NAME = "ollama:tiny:1b"
MANIFEST = "manifests/registry.ollama.ai/library/tiny/1b"


@pytest.fixture
def weights(pulls: LocalPulls) -> Content:
    """A model as Ollama's are: weights, template, system prompt, parameters and licence."""
    pulls.registry.add("license", b"do what you want")
    content = pulls.registry.add("model", MODEL)
    pulls.registry.add("template", b"{{ .Prompt }}")
    pulls.registry.add("system", b"You are tiny.")
    pulls.registry.add("params", b'{"temperature": 0.5}')
    pulls.registry.add_config()
    return content


def failure(pulls: LocalPulls, text: str = NAME) -> PullFailed:
    with pytest.raises(PullFailed) as caught:
        pulls.pull(text)
    assert not any(name.startswith("manifests") for name in files_below(pulls.ollama))
    return caught.value


def test_a_pulled_model_lies_as_ollama_lays_it(pulls: LocalPulls, weights: Content) -> None:
    pulled = pulls.pull(NAME)
    assert Path(pulled.path) == pulls.ollama / "blobs" / f"sha256-{weights.sha256}"
    assert Path(pulled.path).read_bytes() == MODEL
    manifest = json.loads((pulls.ollama / MANIFEST).read_bytes())
    digests = [layer["digest"] for layer in (*manifest["layers"], manifest["config"])]
    wanted = [f"blobs/{digest.replace(':', '-')}" for digest in digests]
    assert files_below(pulls.ollama) == sorted([*wanted, MANIFEST])
    assert pulls.seen[-1].all_total == pulled.bytes == sum(layer["size"] for layer in pulls.registry.layers) + 23
    assert pulls.pull(NAME).present


def test_the_weights_come_first(pulls: LocalPulls, weights: Content) -> None:
    pulls.pull(NAME)
    assert next(progress.file for progress in pulls.seen if progress.file) == "model"


def test_a_new_manifest_fetches_only_what_is_new(pulls: LocalPulls, weights: Content) -> None:
    pulls.pull(NAME)
    pulls.storage.seen.clear()
    pulls.registry.add("messages", b"[]")
    assert not pulls.pull(NAME).present
    assert len(pulls.storage.seen) == 1


def test_a_token_is_got_where_the_registry_says(pulls: LocalPulls, weights: Content) -> None:
    pulls.registry.token = "given"
    pulls.pull(NAME)
    assert pulls.registry.tokens_given == 1
    assert all("authorization" not in seen.headers for seen in pulls.storage.seen)


def test_a_token_that_expires_during_a_pull(pulls: LocalPulls, weights: Content) -> None:
    pulls.registry.token = "first"
    pulls.storage.behaviour.cut_after = [100_000]

    def expire(sent: int) -> None:
        pulls.registry.token = "second"

    pulls.storage.behaviour.pause = expire
    pulls.pull(NAME)
    assert pulls.registry.tokens_given == 2


def test_a_private_model(pulls: LocalPulls, weights: Content) -> None:
    pulls.registry.token, pulls.registry.refuses_tokens = "given", True
    error = failure(pulls)
    assert (error.reason, "wants a login" in str(error)) == ("denied", True)


@pytest.mark.parametrize("realm", ["", "no url", "file:///etc/passwd", "http://169.254.169.254/token"])
def test_an_address_of_tokens_that_is_none(pulls: LocalPulls, weights: Content, realm: str) -> None:
    pulls.registry.token, pulls.registry.realm = "given", realm or "x"
    assert failure(pulls).reason in ("denied", "untrusted")


def test_a_registry_of_the_internet_has_no_tokens_inside(pulls: LocalPulls, weights: Content) -> None:
    inside = Storage()
    with inside.running():
        pulls.registry.token = "given"
        pulls.registry.realm = inside.url.replace("127.0.0.1", "localhost") + "/token"
        pulls.resolve = lambda host: ["8.8.8.8"] if host == "127.0.0.1" else ["127.0.0.1"]
        assert failure(pulls).reason == "untrusted"
    assert inside.seen == []


def test_an_unknown_model_and_an_unknown_tag(pulls: LocalPulls, weights: Content) -> None:
    for name in ("ollama:nothing:1b", "ollama:tiny:2b"):
        error = failure(pulls, name)
        assert (error.reason, name.removeprefix("ollama:") in str(error)) == ("missing", True)


def test_an_adapter_is_refused_before_it_is_downloaded(pulls: LocalPulls, weights: Content) -> None:
    pulls.registry.add("adapter", b"lora")
    error = failure(pulls)
    assert (error.reason, "adapter" in str(error)) == ("refused", True)
    assert pulls.storage.seen == []


def test_a_model_that_is_no_gguf_is_refused(pulls: LocalPulls) -> None:
    error = failure(pulls)
    assert (error.reason, "none" in str(error)) == ("refused", True)
    pulls.registry.add("tensor", b"safetensors")
    error = failure(pulls)
    assert (error.reason, "tensor" in str(error)) == ("refused", True)
    pulls.registry.add("model", b"PK\3\4 is a zip")
    error = failure(pulls)
    assert (error.reason, "GGUF" in str(error)) == ("refused", True)


def test_a_projector_is_fetched_and_named(pulls: LocalPulls, weights: Content) -> None:
    pulls.registry.add("projector", b"GGUF of images")
    pulls.pull(NAME)
    assert any("projector" in note for note in pulls.notes)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>login</html>",
        b"[]",
        b'{"layers": 3}',
        b'{"layers": [{"mediaType": "\xff"}]}',
        b'{"other": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x", "size": 3}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "md5:00", "size": 3}]}',
        b'{"layers": [{"mediaType": "application/vnd.ollama.image.model", "size": 3}]}',
    ],
)
def test_a_manifest_that_is_none(pulls: LocalPulls, body: bytes) -> None:
    pulls.registry.manifest_body = body
    assert failure(pulls).reason == "damaged"
    assert files_below(pulls.ollama) == []


def test_a_huge_manifest(pulls: LocalPulls) -> None:
    pulls.registry.manifest_body = b" " * 5_000_000
    assert failure(pulls).reason == "damaged"
    layer = '{"mediaType": "application/vnd.ollama.image.model"}'
    pulls.registry.manifest_body = f'{{"layers": [{",".join([layer] * 1000)}]}}'.encode()
    assert failure(pulls).reason == "refused"


def test_a_wrong_blob_gets_no_manifest(pulls: LocalPulls, weights: Content) -> None:
    pulls.storage.behaviour.replaced = {weights.sha256: MODEL[:-1] + b"!"}
    assert failure(pulls).reason == "damaged"
    assert files_below(pulls.ollama) == []


def test_a_cut_blob_goes_on_where_it_ended(pulls: LocalPulls, weights: Content) -> None:
    pulls.storage.behaviour.cut_after = [200_000]
    pulls.pull(NAME)
    assert pulls.storage.seen[1].headers["range"] == "bytes=200000-"
