"""llama.cpp's cache of downloads: files with names ``ORG_REPO_FILE.gguf``; since 2026 the hub's layout.

The old names are ambiguous, because repositories have underscores too. A file ``manifest=ORG=REPO=TAG.json`` beside
them names its repository exactly. Source: llama.cpp, common/download.cpp and common/arg.cpp.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tailrace.models.quant_choice import FileSize
from tailrace.models.stores.folder_walk import gguf_files
from tailrace.models.stores.found_model import FoundModel, StoreContents
from tailrace.models.stores.hub_cache import hub_layout
from tailrace.models.stores.models_folder import folder_models
from tailrace.models.stores.repository_files import repository_models

_MANIFEST = re.compile(r"manifest=([A-Za-z0-9._-]+)=([A-Za-z0-9._-]+)=[^=]*\.json")
#: An organisation has no underscore, and most repositories end in -GGUF.
_NAME = re.compile(r"([A-Za-z0-9.-]+)_(.+?-GGUF|[^_]+)_(.+\.gguf)", re.IGNORECASE)


def llama_folder() -> Path:
    """``$LLAMA_CACHE``, or llama.cpp's folder in the user's cache."""
    if named := os.environ.get("LLAMA_CACHE"):
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llama.cpp"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama.cpp"


def read_llama_cache(folder: Path | None = None) -> StoreContents:
    """The cache's models, of both layouts."""
    folder = llama_folder() if folder is None else folder
    hub = hub_layout("llama.cpp", folder)
    walk = gguf_files(folder)
    flat = [file for file in walk.files if not file.path.startswith("models--")]
    models = _flat_models(folder, flat)
    return StoreContents(
        store="llama.cpp", folder=folder, models=(*hub.models, *models), problems=(*hub.problems, *walk.problems)
    )


def _flat_models(folder: Path, files: Iterable[FileSize]) -> list[FoundModel]:
    repositories = _manifests(folder)
    #: The file here, by the repository and the file's name in it.
    named: dict[str, dict[str, FileSize]] = {}
    others: list[FileSize] = []
    for file in files:
        found = _repository_of(file.path, repositories)
        if found is None:
            others.append(file)
        else:
            named.setdefault(found[0], {})[found[1]] = file
    models: list[FoundModel] = []
    for repository, own in sorted(named.items()):
        listing = [FileSize(name, file.bytes) for name, file in own.items()]
        paths = {name: folder / file.path for name, file in own.items()}
        models += repository_models("llama.cpp", repository, listing, paths.__getitem__)
    return models + folder_models("llama.cpp", folder, others)


def _manifests(folder: Path) -> list[tuple[str, str]]:
    """The repositories that manifests name, those with the longest names first."""
    try:
        found = {match.groups() for each in folder.iterdir() if (match := _MANIFEST.fullmatch(each.name))}
    except OSError:
        return []
    return sorted(((org, repo) for org, repo in found), key=lambda names: -len("".join(names)))


def _repository_of(path: str, repositories: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The repository of a file and its name there; None where the name doesn't say."""
    if "/" in path:
        return None
    for organisation, repository in repositories:
        front = f"{organisation}_{repository}_"
        if path.startswith(front):
            return f"{organisation}/{repository}", path.removeprefix(front)
    found = _NAME.fullmatch(path)
    return (f"{found[1]}/{found[2]}", found[3]) if found else None
