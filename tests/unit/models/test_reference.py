"""The grammar of references: every form, what is refused, and that no part of a reference leads out of a folder."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.errors import ModelError
from tailrace.models.reference import (
    HubReference,
    NameReference,
    OllamaReference,
    PathReference,
    Reference,
    name_key,
    parse_reference,
    served_name,
)

_HUB = HubReference(organisation="ggml-org", repository="tiny-GGUF")
_SHARD = "BF16/tiny-00001-of-00003.gguf"


def _hub(**parts: str) -> HubReference:
    return HubReference(organisation="ggml-org", repository="tiny-GGUF", **parts)


def _ollama(model: str, tag: str = "latest", **parts: str) -> OllamaReference:
    return OllamaReference(model=model, tag=tag, **parts)


FORMS: list[tuple[str, Reference]] = [
    ("/models/a.gguf", PathReference("/models/a.gguf")),
    ("~/My Models/ä.GGUF", PathReference("~/My Models/ä.GGUF")),
    ("./folder", PathReference("./folder")),
    ("../up/a.gguf", PathReference("../up/a.gguf")),
    ("..", PathReference("..")),
    ("a.gguf", PathReference("a.gguf")),
    ("folder/sub/a-00001-of-00003.gguf", PathReference("folder/sub/a-00001-of-00003.gguf")),
    ("folder:x/sub/a.gguf", PathReference("folder:x/sub/a.gguf")),
    ("smollm2-135m", NameReference("smollm2-135m")),
    ("llama3.2:3b", NameReference("llama3.2", "3b")),
    ("llama3.2:latest", NameReference("llama3.2", "latest")),
    ("hf:ggml-org/tiny-GGUF", _HUB),
    ("HF:ggml-org/tiny-GGUF", _HUB),
    ("hf://ggml-org/tiny-GGUF", _HUB),
    ("hf:ggml-org/tiny-GGUF:Q4_K_M", _hub(quant="Q4_K_M")),
    ("hf:ggml-org/tiny-GGUF@refs/pr/1:Q4_K_M", _hub(quant="Q4_K_M", revision="refs/pr/1")),
    ("hf:ggml-org/tiny-GGUF@main", _HUB),
    (f"hf:ggml-org/tiny-GGUF/{_SHARD}", _hub(file=_SHARD)),
    (f"hf:ggml-org/tiny-GGUF:{_SHARD}", _hub(file=_SHARD)),
    ("hf:hf.co/ggml-org/tiny-GGUF:q8_0", _hub(quant="q8_0")),
    ("hf.co/ggml-org/tiny-GGUF:q8_0", _hub(quant="q8_0")),
    ("HF.co/ggml-org/tiny-GGUF:latest", _hub(quant="latest")),
    ("huggingface.co/ggml-org/tiny-GGUF", _HUB),
    ("hf.co/ggml-org/tiny-GGUF/a.gguf", _hub(file="a.gguf")),
    ("ggml-org/tiny-GGUF", _HUB),
    ("ggml-org/tiny-GGUF:UD-Q4_K_XL", _hub(quant="UD-Q4_K_XL")),
    ("ggml-org/tiny-GGUF:a.gguf", _hub(file="a.gguf")),
    ("https://huggingface.co/ggml-org/tiny-GGUF", _HUB),
    ("http://www.huggingface.co/ggml-org/tiny-GGUF/", _HUB),
    ("HTTPS://HuggingFace.co/ggml-org/tiny-GGUF?local-app=llama.cpp#x", _HUB),
    ("https://hf.co/ggml-org/tiny-GGUF/tree/main", _HUB),
    ("https://hf.co/ggml-org/tiny-GGUF/tree/main/BF16", _HUB),
    ("https://hf.co/ggml-org/tiny-GGUF/tree/v1.0", _hub(revision="v1.0")),
    ("https://hf.co/ggml-org/tiny-GGUF?show_file_info=a.gguf", _hub(file="a.gguf")),
    (f"https://huggingface.co/ggml-org/tiny-GGUF/blob/main/{_SHARD}", _hub(file=_SHARD)),
    ("https://huggingface.co/ggml-org/tiny-GGUF/resolve/main/a.gguf?download=true", _hub(file="a.gguf")),
    ("https://hf.co/ggml-org/tiny-GGUF/resolve/refs%2Fpr%2F1/a%20b.gguf", _hub(file="a b.gguf", revision="refs/pr/1")),
    ("ollama:llama3.2:3b", _ollama("llama3.2", "3b")),
    ("ollama:llama3.2", _ollama("llama3.2")),
    ("Ollama://llama3.2", _ollama("llama3.2")),
    ("ollama:library/llama3.2:3b", _ollama("llama3.2", "3b")),
    ("ollama:user/model:tag", _ollama("model", "tag", namespace="user")),
    ("registry.ollama.ai/library/llama3.2:3b", _ollama("llama3.2", "3b")),
    ("ollama:registry.ollama.ai/user/model", _ollama("model", namespace="user")),
    ("ollama.com/library/llama3.2:3b", _ollama("llama3.2", "3b")),
    ("https://ollama.com/library/llama3.2:3b", _ollama("llama3.2", "3b")),
    ("https://ollama.com/user/model", _ollama("model", namespace="user")),
    ("ollama:hf.co/org/repo:Q4_K_M", _ollama("repo", "Q4_K_M", namespace="org", host="hf.co")),
    ("ollama:localhost:5000/user/model:1b", _ollama("model", "1b", namespace="user", host="localhost:5000")),
]


@pytest.mark.parametrize(("text", "expected"), FORMS, ids=[text for text, _ in FORMS])
def test_every_form_is_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8900", "http://127.0.0.1:8900/hub/"])
def test_urls_of_the_own_endpoint_are_the_hub(endpoint: str) -> None:
    url = f"{endpoint.rstrip('/')}/ggml-org/tiny-GGUF/resolve/main/a.gguf"
    assert parse_reference(url, endpoint) == _hub(file="a.gguf")
    with pytest.raises(ModelError, match="nor HF_ENDPOINT's host"):
        parse_reference(url)
    with pytest.raises(ModelError, match="nor HF_ENDPOINT's host"):
        parse_reference("http://127.0.0.1:8901/ggml-org/tiny-GGUF", endpoint)


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://hub:port"])
def test_an_endpoint_that_is_no_url_is_named(endpoint: str) -> None:
    with pytest.raises(ModelError, match="HF_ENDPOINT isn't a URL"):
        parse_reference("http://127.0.0.1/ggml-org/tiny-GGUF", endpoint)
    assert parse_reference("hf:ggml-org/tiny-GGUF", endpoint) == _hub()


def test_a_page_beside_the_own_endpoint_is_none_of_the_hub() -> None:
    with pytest.raises(ModelError, match="below /hub/"):
        parse_reference("http://127.0.0.1:8900/hubble/ggml-org/tiny-GGUF", "http://127.0.0.1:8900/hub")


WRONG = [
    ("", "no model is named"),
    (" \t", "no model is named"),
    ("a" * 10_000_000, "10,000,000 characters"),
    ("x\ny", "can't be printed"),
    ("hf:org/re\u202epo", "can't be printed"),
    ("a\0.gguf", "can't be printed"),
    ("hf:", "ORG/REPO"),
    ("hf:repo", "ORG/REPO"),
    ("hf:../../etc/passwd", "only a .gguf file's path"),
    ("hf:../..", "ORG/REPO"),
    ("hf:org/..:Q4_K_M", "ORG/REPO"),
    ("hf:org/a--b", "ORG/REPO"),
    ("hf:org/re\u0440o", "ORG/REPO"),  # Cyrillic
    ("hf:org\u2215repo", "ORG/REPO"),  # a slash's look-alike
    ("hf:org/repo/../../../a.gguf", "plain path"),
    ("hf:org/repo:/etc/a.gguf", "plain path"),
    ("hf:org/repo:.hidden.gguf", "plain path"),
    ("hf:org/repo:a\\b.gguf", "plain path"),
    ("hf:org/repo:", "behind the colon comes a quantisation"),
    ("hf:org/repo:Q4:K", "behind the colon comes a quantisation"),
    ("hf:org/repo@../x", "revision"),
    ("hf:org/repo/a.gguf:Q4_K_M", "not both"),
    ("org/repo/third", "only a .gguf file's path"),
    ("https://huggingface.co/datasets/org/repo", "not of a model's repository"),
    ("https://huggingface.co/org/repo/blob/main/README.md", "isn't a .gguf file"),
    ("https://huggingface.co/org/repo/resolve/main/..%2F..%2Fa.gguf", "plain path"),
    ("https://huggingface.co/org/repo/discussions/1", "ends in"),
    ("https://huggingface.co/", "ORG/REPO"),
    ("https://user:secret@huggingface.co/org/repo", "HF_TOKEN"),
    ("https://example.com/org/repo", "neither huggingface.co"),
    ("https://huggingface.co.example.com/org/repo", "neither huggingface.co"),
    ("https://[::1/org/repo", "isn't a URL"),
    ("https://huggingface.co:99999/org/repo", "isn't a URL"),
    ("ollama:", "ollama:MODEL:TAG"),
    ("ollama:../x", "ollama:MODEL:TAG"),
    ("ollama:a/b/c/d", "ollama:MODEL:TAG"),
    ("ollama:llama3.2:3b:x", "ollama:MODEL:TAG"),
    ("ollama:x:..", "ollama:MODEL:TAG"),
    ("https://ollama.com/library/llama3.2/tags", "ollama:MODEL:TAG"),
    (".hidden", "a name has letters"),
    ("a:b:c", "a name has letters"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG, ids=[repr(text[:50]) for text, _ in WRONG])
def test_what_is_wrong_is_said_with_the_forms(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as raised:
        parse_reference(text)
    assert len(str(raised.value)) < 600
    assert "secret" not in str(raised.value)
    if "HF_TOKEN" not in reason:
        assert "hf:ORG/REPO" in str(raised.value)
        assert "ollama:MODEL:TAG" in str(raised.value)


_PIECES = st.sampled_from(
    ["hf:", "ollama:", "https://", "huggingface.co", "hf.co", "ollama.com", "/", "//", "..", ".", "~", ":", "@", "%2e",
     "%2F", "%00", "\\", "\0", "\n", "\u202e", "\ud800", "\u2215", "org", "repo", "a.gguf", "resolve", "main", "?", "#",
     "show_file_info=", "Q4_K_M", " "]
)  # fmt: skip


def _parts(reference: Reference) -> list[str]:
    match reference:
        case HubReference():
            return [reference.organisation, reference.repository]
        case OllamaReference():
            return [reference.host, reference.namespace, reference.model, reference.tag]
        case NameReference():
            return [reference.name]
        case PathReference():
            return []


@given(st.one_of(st.lists(_PIECES, max_size=14).map("".join), st.text(max_size=60)))
@example("https://huggingface.co/org/repo?show_file_info=../../a.gguf")
@example("https://huggingface.co/org/repo/resolve/%2e%2e/a.gguf")
def test_no_part_leads_out_of_a_folder(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ModelError:
        return
    for part in _parts(reference):
        assert part
        assert "/" not in part
        assert "\\" not in part
        assert part not in (".", "..")
        assert part.isprintable()
    if isinstance(reference, HubReference):
        for path in (reference.file or "x", reference.revision or "x", reference.quant or "x"):
            assert posixpath.normpath(posixpath.join("/folder", path)).startswith("/folder/")
            assert "\\" not in path
            assert path.isprintable()
    assert parse_reference(str(reference)) == reference


@given(st.text())
def test_a_key_never_raises_and_is_its_own_key(text: str) -> None:
    assert name_key(name_key(text)) == name_key(text)


@pytest.mark.parametrize(
    "texts",
    [
        ["hf:org/repo:Q4_K_M", "org/repo:q4_k_m", "hf.co/Org/Repo:Q4_K_M", "ollama:hf.co/org/repo:Q4_k_M"],
        ["llama3.2:3b", "ollama:llama3.2:3b", "Llama3.2:3B", "registry.ollama.ai/library/llama3.2:3b"],
        ["smollm2-135m", "SmolLM2-135M", "smollm2-135m:latest", "ollama:smollm2-135m:latest", "ollama:smollm2-135m"],
        ["org/repo", "https://huggingface.co/org/repo", "hf:org/repo:latest"],
        ["ollama:user/model:tag", "user/model:tag"],
        ["My Model!", "my model!:latest"],
    ],
)
def test_texts_that_name_one_model_have_one_key(texts: list[str]) -> None:
    assert len({name_key(text) for text in texts}) == 1


def test_other_models_have_other_keys() -> None:
    texts = ["llama3.2", "llama3.2:3b", "org/repo", "org/repo:Q4_K_M", "org/repo:Q8_0", "x.gguf", "x"]
    assert len({name_key(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:org/repo:Q4_K_M", "org/repo:Q4_K_M"),
        ("ollama:llama3.2:3b", "llama3.2:3b"),
        ("ollama:llama3.2", "llama3.2"),
        ("ollama:user/model:tag", "user/model:tag"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_clients_see_a_reference_without_its_prefix(text: str, name: str) -> None:
    assert served_name(parse_reference(text)) == name
