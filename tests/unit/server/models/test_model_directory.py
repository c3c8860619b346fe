"""Which served model a name means, who may use it, and what an error lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import ModelNotFound
from tailrace.models.derived_models import DerivedModel, DerivedModels
from tailrace.observe.metrics import Metrics
from tailrace.server.caller import Caller, set_caller
from tailrace.server.models.engine_hub import EngineHub
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_service import ModelService
from tailrace.serving.control import ModelReport
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


@pytest.fixture(autouse=True)
def everybody() -> Iterator[None]:
    set_caller({}, Caller("192.0.2.1"))
    yield
    set_caller({}, Caller(""))


def limited_to(*patterns: str) -> None:
    """The caller has a key for these models."""
    set_caller({}, Caller("192.0.2.1", key_name="k", models=patterns))


def directory(folder: Path, models: Mapping[str, Mapping[str, Any]], derived: Mapping[str, str] = {}) -> ModelDirectory:
    """Of models with these settings, and derived ones with these bases."""
    hub, metrics = EngineHub(silence_seconds=1.0), Metrics()
    specs = [ModelSpec(name=name, path=None, settings=Settings(**settings)) for name, settings in models.items()]
    entries = DerivedModels(folder)
    for name, base in derived.items():
        entries.put(name, DerivedModel(base=base))
    services = (ModelService(spec, hub, metrics) for spec in specs)
    return ModelDirectory(services, entries, folder, on_demand=len(models) > 1)


MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-8B": {"aliases": ("*",)},
    "coder": {"aliases": ("gpt-*", "claude-haiku")},
    "llama3.2:3b": {"aliases": ("gpt-4*", "claude-*")},
}
DERIVED = {"pirate": "coder", "Poet": "Qwen3-8B:latest", "lost": "not-served"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "Qwen3-8B"),
        ("coder", "coder"),
        ("coder:latest", "coder"),
        ("CODER:latest", "coder"),
        ("qwen3-8b", "Qwen3-8B"),
        ("llama3.2:3b", "llama3.2:3b"),
        ("Llama3.2:3B", "llama3.2:3b"),
        ("gpt-3.5", "coder"),
        ("gpt-4o", "llama3.2:3b"),
        ("claude-haiku", "coder"),
        ("claude-opus", "llama3.2:3b"),
        ("anything else", "Qwen3-8B"),
    ],
)
def test_the_model_of_a_name(tmp_path: Path, name: str | None, expected: str) -> None:
    found = directory(tmp_path, MODELS).resolve(name)
    assert (found.service.name, found.derived) == (expected, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:org/repo:Q4_K_M", "org/repo:Q4_K_M"),
        ("ORG/repo:q4_k_m", "org/repo:Q4_K_M"),
        ("hf.co/org/repo:q8_0", "org/repo:Q8_0"),
        ("https://huggingface.co/org/repo", "org/repo:Q4_K_M"),
        ("org/repo:latest", "org/repo:Q4_K_M"),
        ("ollama:llama3.2:3b", "llama3.2:3b"),
        ("registry.ollama.ai/library/Llama3.2:3b", "llama3.2:3b"),
        ("ollama:phi4", "phi4"),
        ("phi4:latest", "phi4"),
        ("hf:org/other:Q8_0", "mine"),
        ("org/other", "mine"),
        ("org/repo:Q6_K", None),
        ("ollama:llama3.2", None),
        ("/models/mine.gguf", None),
        ("hf:../..", None),
        ("x" * 100_000, None),
    ],
)
def test_every_form_of_a_reference_finds_its_model(tmp_path: Path, name: str, expected: str | None) -> None:
    models: dict[str, dict[str, Any]] = {
        "org/repo:Q4_K_M": {"model": "hf:org/repo:Q4_K_M"},
        "org/repo:Q8_0": {"model": "org/repo:Q8_0"},
        "llama3.2:3b": {"model": "llama3.2:3b"},
        "phi4": {"model": "ollama:phi4"},
        "mine": {"model": "hf:org/other:Q8_0", "alias": "mine"},
        "file": {"model": "/models/mine.gguf"},
    }
    found = directory(tmp_path, models).find(name)
    assert (None if found is None else found.service.name) == expected


@pytest.mark.parametrize(
    ("name", "base"),
    [("pirate", "coder"), ("pirate:latest", "coder"), ("Pirate", "coder"), ("poet", "Qwen3-8B"), ("Poet", "Qwen3-8B")],
)
def test_a_derived_model_names_its_service(tmp_path: Path, name: str, base: str) -> None:
    models: dict[str, dict[str, Any]] = {name: {} for name in MODELS}
    found = directory(tmp_path, models, DERIVED).resolve(name)
    assert found.service.name == base
    assert found.derived is not None


def test_a_derived_model_of_a_model_in_the_store(tmp_path: Path) -> None:
    entries = DerivedModels(tmp_path)
    entries.put("mine", DerivedModel(base="stored"))
    spec = ModelSpec(name="served", path=str(tmp_path / "stored" / "model.gguf"), settings=Settings())
    service = ModelService(spec, EngineHub(silence_seconds=1.0), Metrics())
    found = ModelDirectory([service], entries, tmp_path)
    assert found.resolve("mine").service is service
    assert found.store_name(service) == "stored"


def test_an_unknown_name_gets_the_names_of_some_served_models(tmp_path: Path) -> None:
    models: dict[str, dict[str, Any]] = {f"m{number}": {} for number in range(12)}
    with pytest.raises(ModelNotFound, match=r"'x+…' does not exist here; this server serves 'm0', .* and 4 more"):
        directory(tmp_path, models).resolve("x" * 1000)


def test_a_key_for_certain_models(tmp_path: Path) -> None:
    found = directory(tmp_path, {name: {} for name in MODELS}, {"pirate": "coder"})
    limited_to("coder")
    assert found.resolve("coder:latest").service.name == "coder"
    assert found.resolve(None).service.name == "coder", "the first that it may use"
    assert [name for name, _ in found.listed] == ["coder"]
    with pytest.raises(ModelNotFound) as refused:
        found.resolve("Qwen3-8B")
    assert "'coder'" in refused.value.message
    assert "llama3.2:3b" not in refused.value.message, "it learns no other names"
    with pytest.raises(ModelNotFound):
        found.resolve("pirate")  # A derived model is another model.
    limited_to("pirate")
    assert found.resolve("pirate").service.name == "coder"
    assert found.allowed(None) is None
    with pytest.raises(ModelNotFound):
        found.resolve("coder")


def test_an_alias_may_be_used_by_its_own_name(tmp_path: Path) -> None:
    found = directory(tmp_path, {"a": {"aliases": ("gpt-*",)}, "b": {}})
    limited_to("gpt-4")
    assert found.resolve("gpt-4").service.name == "a"
    with pytest.raises(ModelNotFound):
        found.resolve("gpt-5")


def test_lists_have_the_served_models_first(tmp_path: Path) -> None:
    found = directory(tmp_path, {"b": {}, "a": {}}, {"c": "a", "lost": "nowhere"})
    assert [name for name, _ in found.listed] == ["b", "a", "c"]
    assert found.listed_name("C:latest".lower()) == "c"
    assert found.listed_name("A") == "a"


def test_models_come_and_go(tmp_path: Path) -> None:
    found = directory(tmp_path, {"a": {}})
    spec = ModelSpec(name="b", path=None, settings=Settings(aliases=("bee",)))
    added = ModelService(spec, EngineHub(silence_seconds=1.0), Metrics())
    found.add(added)
    assert found.resolve("bee").service is added
    assert found.default.name == "a"
    found.retire(added)
    found.on_report(ModelReport(name="b", phase="unloaded"))
    found.forget(added)
    for name in ("b", "bee", "B"):
        assert found.find(name) is None
    with pytest.raises(ModelNotFound):
        found.service("b")  # A request for it has begun.


def test_llama_servers_routes_ignore_a_name_where_one_model_is_served(tmp_path: Path) -> None:
    one = directory(tmp_path, {"a": {}})
    assert (one.routed("gpt-4"), one.routed("a"), one.routed("")) == (None, "a", None)
    assert directory(tmp_path, {"a": {}, "b": {}}).routed("gpt-4") == "gpt-4"
