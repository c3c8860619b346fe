"""The hub's cache on this disk, as huggingface_hub lays it out, so that other programs find the files there.

A repository's folder has ``blobs`` (files by their digests), ``snapshots`` (for each commit a folder of links to blobs)
and ``refs`` (the commit of a branch). https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

#: For messages: which variable moves the cache.
REMEDY = "set HF_HUB_CACHE to another folder"


class HubCache:
    """One repository's folder."""

    def __init__(self, repo_id: str) -> None:
        root = Path(constants.HF_HUB_CACHE)
        name = repo_folder_name(repo_id=repo_id, repo_type="model")
        self.folder = root / name
        self._locks = root / ".locks" / name

    def blob(self, digest: str) -> Path:
        """Where the file with this digest is once it is whole."""
        return self.folder / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """Where it grows, by the name that older versions of huggingface_hub have for it."""
        return self.folder / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> Path:
        """The lock that huggingface_hub takes for the same file."""
        return self._locks / f"{digest}.lock"

    def pointer(self, commit: str, name: str) -> Path:
        """Where programs look for a file of a commit."""
        return self.folder / "snapshots" / commit / name

    def publish(self, commit: str, revision: str, files: Sequence[tuple[str, str]]) -> None:
        """Give whole files, as pairs of name and digest, their names, the first one last. Raises OSError.

        A set of shards is found by its first shard, so it is found only when all others are there.
        """
        for name, digest in reversed(files):
            self._link(self.blob(digest), self.pointer(commit, name))
        if revision != commit:
            self._write_ref(commit, revision)

    def _link(self, blob: Path, pointer: Path) -> None:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        try:
            if pointer.exists() and (not blob.exists() or pointer.samefile(blob)):
                return
        except OSError:
            pass  # It leads nowhere: replaced below.
        beside = pointer.with_name(f".{secrets.token_hex(4)}.new")
        if not constants.HF_HUB_DISABLE_SYMLINKS:
            try:
                beside.symlink_to(os.path.relpath(blob, pointer.parent))
                os.replace(beside, pointer)
                return
            except OSError:
                beside.unlink(missing_ok=True)
        # huggingface_hub moves the file, too, where a file system has no links.
        os.replace(blob, pointer)

    def _write_ref(self, commit: str, revision: str) -> None:
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        beside = ref.with_name(f".{secrets.token_hex(4)}.new")
        try:
            beside.write_text(commit, encoding="ascii")
            os.replace(beside, ref)
        finally:
            beside.unlink(missing_ok=True)
