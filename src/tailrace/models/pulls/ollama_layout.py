"""A folder in the layout of Ollama's own store: ``manifests/HOST/NAMESPACE/MODEL/TAG``, and ``blobs/sha256-DIGEST``.

It is ``ollama`` in tailrace's store, so that a pull never changes the store of a running Ollama. An Ollama that is
started with OLLAMA_MODELS set to it has the same models. Ollama's server/modelpath.go and manifest/paths.go.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from tailrace.models.reference import OllamaReference
from tailrace.models.store import default_folder

#: For messages: which variable moves the folder.
REMEDY = "set TAILRACE_MODELS to another folder"
_FOLDER = "ollama"
_BLOB = re.compile(r"sha256[:-]([0-9a-f]{64})")


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

    def remove(self, reference: OllamaReference) -> int | None:
        """Delete a model, and its blobs that no other model has. The bytes that are free then; None: it isn't here.

        Raises OSError.
        """
        path = self.manifest(reference)
        if not path.is_file():
            return None
        own = _blobs(path)
        path.unlink()
        for folder in path.parents:
            if folder == self.folder or any(folder.iterdir()):
                break
            folder.rmdir()
        others = (self.folder / "manifests").rglob("*")
        kept = {digest for other in others if other.is_file() for digest in _blobs(other)}
        freed = 0
        for blob in map(self.blob, sorted(own - kept)):
            if blob.is_file():
                freed += blob.stat().st_size
                blob.unlink()
        return freed

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


def _blobs(manifest: Path) -> set[str]:
    """The digests of a manifest's blobs."""
    return set(_BLOB.findall(manifest.read_text(encoding="utf-8", errors="replace")))
