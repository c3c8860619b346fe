"""A folder in the layout of Ollama's own store: ``manifests/HOST/NAMESPACE/MODEL/TAG``, and ``blobs/sha256-DIGEST``.

It is ``ollama`` in tailrace's store, so that a pull never changes the store of a running Ollama. An Ollama that is
started with OLLAMA_MODELS set to it has the same models. Ollama's server/modelpath.go and manifest/paths.go.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tailrace.models.reference import OllamaReference
from tailrace.models.store import default_folder

#: For messages: which variable moves the folder.
REMEDY = "set TAILRACE_MODELS to another folder"
_FOLDER = "ollama"


def ollama_folder(store: Path | None = None) -> Path:
    """The folder in tailrace's store, which need not exist yet."""
    return (default_folder() if store is None else store) / _FOLDER


class OllamaLayout:
    """The files of such a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, digest: str) -> Path:
        """Where the file with these hexadecimal digits of SHA-256 is once it is whole."""
        return self.folder / "blobs" / f"sha256-{digest}"

    def partial(self, digest: str) -> Path:
        """Where it grows. Ollama ignores the name, and deletes it when it cleans up."""
        return self.folder / "blobs" / f".sha256-{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """Held while it grows."""
        return self.folder / ".locks" / f"sha256-{digest}.lock"

    def manifest(self, reference: OllamaReference) -> Path:
        """The file by which a model is found."""
        return self.folder / "manifests" / reference.host / reference.namespace / reference.model / reference.tag

    def publish(self, reference: OllamaReference, manifest: bytes) -> None:
        """Write a model's manifest, when all its blobs are there. Raises OSError."""
        path = self.manifest(reference)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the manifests and not among them, where each file is a model.
        beside = self.folder / f".{secrets.token_hex(4)}.new"
        try:
            beside.write_bytes(manifest)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
