"""The Hugging Face cache: repositories that huggingface_hub, and llama.cpp since 2026, have downloaded.

It reads the folders' layout and doesn't import huggingface_hub. A repository is a folder ``models--ORG--REPO`` with
``refs`` (a file a branch, with its commit), ``snapshots`` (a folder a commit, with links) and ``blobs``. Source:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tailrace.models.reference import is_repository
from tailrace.models.stores.folder_walk import gguf_files
from tailrace.models.stores.found_model import FoundModel, StoreContents, StoreName
from tailrace.models.stores.repository_files import repository_models

_REPOSITORY = "models--"
_COMMIT = re.compile(r"[0-9a-f]{4,64}")
#: Bytes of the file of a branch.
_MAX_REF = 256
_MAX_REPOSITORIES = 10_000
_MAX_SNAPSHOTS = 100


def hub_folder() -> Path:
    """Where huggingface_hub keeps its cache, by its own variables, in which other variables may be named."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if named := os.environ.get(variable):
            return Path(os.path.expandvars(named)).expanduser().absolute()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser().absolute() / "hub"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def read_hub_cache(folder: Path | None = None, *, repository: str | None = None) -> StoreContents:
    """The cache's models; of one ``repository`` (ORG/REPO, in any case) where it is named."""
    folder = hub_folder() if folder is None else folder
    return hub_layout("huggingface", folder, repository=repository)


def hub_layout(store: StoreName, folder: Path, *, repository: str | None = None) -> StoreContents:
    """The models of a folder with the cache's layout."""
    models: list[FoundModel] = []
    problems: list[str] = []
    try:
        names = sorted(each.name for each in folder.iterdir() if each.name.startswith(_REPOSITORY))[:_MAX_REPOSITORIES]
    except FileNotFoundError:
        names = []
    except OSError as error:
        return StoreContents(store=store, folder=folder, problems=(f"{folder} can't be read: {error.strerror}",))
    for name in names:
        repo_id = name.removeprefix(_REPOSITORY).replace("--", "/")
        if not is_repository(repo_id) or (repository is not None and repo_id.lower() != repository.lower()):
            continue
        found, unread = _repository(store, folder / name, repo_id)
        models += found
        problems += unread
    return StoreContents(store=store, folder=folder, models=tuple(models), problems=tuple(problems))


def _repository(store: StoreName, folder: Path, repo_id: str) -> tuple[list[FoundModel], list[str]]:
    """The models of all snapshots. Where several have a model, the newest whole one counts: main's comes first."""
    found: dict[str, FoundModel] = {}
    problems: list[str] = []
    for snapshot in _snapshots(folder):
        here = folder / "snapshots" / snapshot
        walk = gguf_files(here)
        problems += walk.problems
        for model in repository_models(store, repo_id, walk.files, here.joinpath, revision=snapshot):
            assert model.files is not None
            older = found.get(model.files.name)
            if older is None or (older.problem is not None and model.problem is None):
                found[model.files.name] = model
    return list(found.values()), problems


def _snapshots(folder: Path) -> list[str]:
    """The commits of a repository that are here: main's first, then the newest."""
    main = read_ref(folder, "main")
    try:
        with os.scandir(folder / "snapshots") as entries:
            times = {entry.name: entry.stat().st_mtime for entry in entries if _COMMIT.fullmatch(entry.name)}
    except OSError:
        return []
    return sorted(times, key=lambda commit: (commit != main, -times[commit]))[:_MAX_SNAPSHOTS]


def read_ref(folder: Path, revision: str) -> str | None:
    """The commit of a branch or tag of the repository in ``folder``; None where it isn't known."""
    try:
        with (folder / "refs" / revision).open("rb") as file:
            commit = file.read(_MAX_REF).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def revision_models(contents: StoreContents, repository: str, revision: str) -> list[FoundModel]:
    """The models of one revision: a branch, a tag, or a commit or its first digits. A repository's files differ between
    revisions, so those of another aren't taken.
    """
    folder = contents.folder / f"{_REPOSITORY}{repository.replace('/', '--')}"
    commit = read_ref(folder, revision) or revision
    for snapshot in _snapshots(folder):
        if snapshot.startswith(commit):
            here = folder / "snapshots" / snapshot
            files = gguf_files(here).files
            return repository_models(contents.store, repository, files, here.joinpath, revision=snapshot)
    return []
