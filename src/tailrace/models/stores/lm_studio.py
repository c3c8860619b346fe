"""LM Studio's models: ``PUBLISHER/REPOSITORY/FILE.gguf`` below its folder, as the hub calls them.

Source: https://lmstudio.ai/docs/app/basics/import-model; the folder may be moved in its settings.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tailrace.models.foreign_json import MALFORMED
from tailrace.models.quant_choice import FileSize
from tailrace.models.reference import is_repository
from tailrace.models.stores.folder_walk import gguf_files
from tailrace.models.stores.found_model import FoundModel, StoreContents
from tailrace.models.stores.models_folder import folder_models
from tailrace.models.stores.repository_files import repository_models

_MAX_SETTINGS = 1_000_000


class _Settings(msgspec.Struct, rename="camel"):
    downloads_folder: str | None = None


def lm_studio_folders() -> list[Path]:
    """The folders of its models: that of its settings, and those of its versions."""
    home = Path.home()
    folders = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    for settings in (home / ".lmstudio" / "settings.json", home / ".cache" / "lm-studio" / "settings.json"):
        try:
            with settings.open("rb") as file:
                moved = msgspec.json.decode(file.read(_MAX_SETTINGS), type=_Settings).downloads_folder
        except (OSError, *MALFORMED):
            continue
        if moved and Path(moved).is_absolute():
            folders.insert(0, Path(moved))
    return list(dict.fromkeys(folders))


def read_lm_studio(folder: Path) -> StoreContents:
    """The models of one folder."""
    walk = gguf_files(folder)
    repositories: dict[str, list[FileSize]] = {}
    others: list[FileSize] = []
    for file in walk.files:
        publisher, _, behind = file.path.partition("/")
        repository, _, name = behind.partition("/")
        if name and is_repository(f"{publisher}/{repository}"):
            repositories.setdefault(f"{publisher}/{repository}", []).append(FileSize(name, file.bytes))
        else:
            others.append(file)
    models: list[FoundModel] = []
    for repository, files in sorted(repositories.items()):
        models += repository_models("lm-studio", repository, files, (folder / repository).joinpath)
    models += folder_models("lm-studio", folder, others)
    return StoreContents(store="lm-studio", folder=folder, models=tuple(models), problems=walk.problems)
