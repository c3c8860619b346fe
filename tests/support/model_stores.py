"""Makes small stores of models, as other programs lay them out, from bytes. A machine's own stores are left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

#: Where a real huggingface_hub would have it.
COMMIT = "0f3a" + 36 * "b"


class Stores:
    """The folders of all stores, all below one folder. None exists at first."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.own = folder / "own"
        self.hub = folder / "hub"
        self.ollama = folder / "ollama"
        self.llama = folder / "llama"
        self.lm_studio = self.home / ".lmstudio" / "models"
        self.cache = folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name them."""
        return {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.cache),
            "TAILRACE_MODELS": str(self.own),
            "HF_HUB_CACHE": str(self.hub),
            "OLLAMA_MODELS": str(self.ollama),
            "LLAMA_CACHE": str(self.llama),
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Stores:
        """Have this process look at these stores alone."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "TAILRACE_MODELS_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return self

    def add_own(self, name: str, file: str, data: bytes) -> Path:
        """A model of tailrace's store."""
        return _write(self.own / name / file, data)

    def add_hub(
        self, repository: str, files: Mapping[str, bytes], *, commit: str = COMMIT, branch: str | None = "main"
    ) -> Path:
        """A repository's snapshot in the Hugging Face cache; returns its folder."""
        folder = self.hub / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / commit
        for name, data in files.items():
            blob = _write(folder / "blobs" / hashlib.sha256(data).hexdigest(), data)
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(*[".."] * (2 + name.count("/")), "blobs", blob.name))
        if branch is not None:
            _write(folder / "refs" / branch, commit.encode())
        return snapshot

    def add_ollama(
        self,
        name: str,
        data: bytes,
        *,
        folder: Path | None = None,
        layers: Mapping[str, bytes] | None = None,
        file_type: str | None = None,
    ) -> Path:
        """A model of Ollama's store, named ``HOST/NAMESPACE/MODEL/TAG``; returns its blob."""
        folder = self.ollama if folder is None else folder
        kinds = {"model": data, **(layers or {})}
        rows = [_layer(folder, f"application/vnd.ollama.image.{kind}", content) for kind, content in kinds.items()]
        config = {"model_format": "gguf", **({"file_type": file_type} if file_type else {})}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": _layer(folder, "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
            "layers": rows,
        }
        _write(folder / "manifests" / name, json.dumps(manifest).encode())
        return folder / "blobs" / str(rows[0]["digest"]).replace(":", "-")

    def add_lm_studio(self, path: str, data: bytes) -> Path:
        """A file of LM Studio's folder."""
        return _write(self.lm_studio / path, data)

    def add_llama(self, name: str, data: bytes) -> Path:
        """A file of llama.cpp's cache."""
        return _write(self.llama / name, data)


def _layer(folder: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    _write(folder / "blobs" / f"sha256-{digest}", data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
