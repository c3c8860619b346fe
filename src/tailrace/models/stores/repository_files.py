"""The models among a repository's files that are here, as every store of hub downloads has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from tailrace.models.quant_choice import FileSize, QuantFiles, is_projector_name, quant_sets
from tailrace.models.stores.found_model import FoundModel, StoreName


def repository_models(
    store: StoreName,
    repository: str,
    files: Iterable[FileSize],
    locate: Callable[[str], Path],
    *,
    revision: str | None = None,
) -> list[FoundModel]:
    """The models of one repository. ``files`` have their paths in it, and ``locate`` says where each is here."""
    files = list(files)
    sets = quant_sets(files)
    quants = Counter(each.quant for each in sets)
    # Of several projectors the largest is the most exact one.
    projectors = sorted((file for file in files if is_projector_name(file.path)), key=lambda file: file.bytes)
    models = []
    for each in sets:
        path = each.files[0].path
        behind = each.quant if each.quant is not None and quants[each.quant] == 1 else path
        # A projector belongs to the models of its own folder, and of those below it.
        near = [other.path for other in projectors if path.startswith("".join(other.path.rpartition("/")[:2]))]
        models.append(
            FoundModel(
                store=store,
                reference=f"hf:{repository}:{behind}",
                name=f"{repository}:{behind}",
                path=locate(path),
                bytes=each.bytes,
                quant=each.quant,
                repository=repository,
                files=each,
                revision=revision,
                projector=locate(near[-1]) if near else None,
                problem=missing_shards(each),
            )
        )
    return models


def missing_shards(found: QuantFiles) -> str | None:
    """What is wrong with an incomplete set of shards; None for a whole one."""
    if not found.missing:
        return None
    numbers = ", ".join(str(number) for number in found.missing[:5])
    more = ", …" if len(found.missing) > 5 else ""
    return f"shard {numbers}{more} of {found.count} is missing. Fetch or copy it there"
