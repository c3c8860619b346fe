"""Deleting from the folder with Ollama's layout: blobs stay as long as a model has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_pulls import LocalPulls, files_below
from model_files import tiny_gguf
from tailrace.errors import PullFailed
from tailrace.models.pulls.download import Download
from tailrace.models.pulls.ollama_layout import OllamaLayout
from tailrace.models.reference import OllamaReference


def test_a_blob_stays_as_long_as_a_model_has_it(pulls: LocalPulls) -> None:
    pulls.registry.add("license", b"shared")
    first = pulls.registry.add("model", tiny_gguf())
    pulls.pull("ollama:tiny:1b")
    pulls.registry.layers.pop()
    second = pulls.registry.add("model", tiny_gguf(weights=bytes(200)))
    pulls.registry.tag = "2b"
    pulls.pull("ollama:tiny:2b")
    layout = OllamaLayout(pulls.ollama)
    assert layout.remove(OllamaReference(model="tiny", tag="1b")) == first.size
    assert not layout.blob(first.sha256).exists()
    assert layout.blob(second.sha256).exists()
    assert layout.remove(OllamaReference(model="tiny", tag="1b")) is None
    assert layout.remove(OllamaReference(model="tiny", tag="2b")) == second.size + len(b"shared")
    assert files_below(pulls.ollama) == []
    assert not (pulls.ollama / "manifests").exists()


def test_a_blob_that_is_deleted_during_a_pull(pulls: LocalPulls, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = pulls.registry.add("model", tiny_gguf())
    pulls.registry.add("license", b"free")
    run = Download.run

    def delete_before(self: Download) -> None:
        Path(pulls.ollama / "blobs" / f"sha256-{weights.sha256}").unlink(missing_ok=True)
        run(self)

    with monkeypatch.context() as patched:
        patched.setattr(Download, "run", delete_before)
        with pytest.raises(PullFailed, match="deleted meanwhile"):
            pulls.pull("ollama:tiny:1b")
    assert not (pulls.ollama / "manifests").exists()
    pulls.pull("ollama:tiny:1b")
