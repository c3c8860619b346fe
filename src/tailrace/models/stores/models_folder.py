"""A folder of .gguf files in no layout of a hub: the one that ``models_dir`` names, and what lies loose elsewhere.

A model is called by its file's name without ``.gguf`` and without a shard's number. Where several files below the
folder have that name, each is called by its path below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tailrace.models.quant_choice import FileSize, is_projector_name, quant_sets
from tailrace.models.stores.folder_walk import gguf_files
from tailrace.models.stores.found_model import FoundModel, StoreContents, StoreName
from tailrace.models.stores.repository_files import missing_shards


def read_models_folder(folder: Path) -> StoreContents:
    """The models below ``folder``; a folder that isn't there is a problem."""
    try:
        folder = folder.expanduser().absolute()
        problem = None if folder.is_dir() else f"there is no folder {folder}"
    except (OSError, RuntimeError) as error:  # The path is too long or without rights, or names an unknown ~user.
        problem = f"{folder} can't be read: {error}"
    if problem is not None:
        return StoreContents(store="folder", folder=folder, problems=(problem,))
    walk = gguf_files(folder)
    return StoreContents(
        store="folder",
        folder=folder,
        models=tuple(folder_models("folder", folder, walk.files)),
        problems=walk.problems,
    )


def folder_models(store: StoreName, folder: Path, files: Iterable[FileSize]) -> list[FoundModel]:
    """The models among the files, whose paths are below ``folder``. A model's reference is its path."""
    files = list(files)
    sets = quant_sets(files)
    short = Counter(PurePosixPath(each.name).name.casefold() for each in sets)
    # ``x.gguf`` and ``X.GGUF``, or a whole model beside its shards.
    long = Counter(each.name.casefold() for each in sets)
    projectors = [file.path for file in files if is_projector_name(file.path)]
    models = []
    for each in sets:
        path, name = each.files[0].path, PurePosixPath(each.name).name
        if short[name.casefold()] > 1:
            name = each.name if long[each.name.casefold()] == 1 else path
        beside = [other for other in projectors if other.rpartition("/")[0] == path.rpartition("/")[0]]
        models.append(
            FoundModel(
                store=store,
                reference=str(folder / path),
                name=name,
                path=folder / path,
                bytes=each.bytes,
                quant=each.quant,
                files=each,
                projector=folder / beside[0] if beside else None,
                problem=missing_shards(each),
            )
        )
    return models
