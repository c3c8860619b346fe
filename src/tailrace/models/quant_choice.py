"""Which of a repository's files are a model, and which quantisation is taken. Pure: it knows names, sizes and memory.

Pulls apply it to a hub's listing, and the stores to files that are here, so that one reference means the same files in
both places. docs/models.md has the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import PurePosixPath

import msgspec

from tailrace.errors import ModelError
from tailrace.models.shards import shard_number

#: The order in which a quantisation is looked for where none is named: Q4_K_M and its neighbours, which lose little and
#: are small; then better ones, up to twice its size; then smaller ones; then unquantised weights.
ORDER: tuple[str, ...] = (
    *("Q4_K_M", "UD-Q4_K_XL", "Q4_K_XL", "Q4_K_L", "Q4_K", "Q4_K_S", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "MXFP4"),
    *("NVFP4", "Q4_1", "Q4_0"),
    *("Q5_K_M", "UD-Q5_K_XL", "Q5_K_XL", "Q5_K_L", "Q5_K", "Q5_K_S", "Q5_1", "Q5_0"),
    *("Q6_K", "UD-Q6_K_XL", "Q6_K_XL", "Q6_K_L", "Q8_0", "UD-Q8_K_XL", "Q8_K_XL"),
    *("UD-Q3_K_XL", "Q3_K_XL", "Q3_K_L", "Q3_K_M", "Q3_K", "IQ3_M", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    *("UD-Q2_K_XL", "Q2_K_XL", "Q2_K_L", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
    *("TQ2_0", "TQ1_0", "IQ1_M", "IQ1_S"),
    *("BF16", "F16", "FP16", "F32", "FP32"),
)
_RANK = {quant: rank for rank, quant in enumerate(ORDER)}

#: A quantisation in a file's or a folder's name, between characters that aren't part of a word.
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?"
    r"(?:I?Q[1-8]_(?:K(?:_[A-Z]{1,2})?|[0-9](?:_[0-9]_[0-9])?|[A-Z]{1,3})|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
#: Names of .gguf files that are a part of a model, or data for quantising one.
_NO_MODEL = re.compile(r"mmproj|^imatrix|[-._]imatrix\.gguf$|^ggml-vocab-", re.IGNORECASE)
#: Names of files that change a model, unless there is no other file: a merged model may be called so, too.
_CHANGES = re.compile(r"(?<![a-z0-9])(?:lora|adapter|control-vector)(?![a-z0-9])", re.IGNORECASE)
#: What a model takes beside its file: a tenth for buffers and a short context, and the processes.
_EXTRA_PART = 10
_EXTRA_BYTES = 500_000_000
#: Names that an error message lists.
_MAX_LISTED = 40


class FileSize(msgspec.Struct, frozen=True):
    """A file of a listing. ``path`` is relative, with slashes."""

    path: str
    bytes: int


class QuantFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one model in one quantisation: one file, or all shards in order."""

    name: str  #: the first file's path without a shard's number and ``.gguf``
    quant: str | None  #: in capitals; None where no name has one
    files: tuple[FileSize, ...]
    missing: tuple[int, ...] = ()  #: numbers of shards that aren't in the listing, from 1 on; the first 40
    count: int = 1  #: of all shards

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)

    def fits(self, memory: int | None) -> bool:
        """Whether the model can be served with so many bytes of memory; None: with any."""
        return memory is None or self.bytes + self.bytes // _EXTRA_PART + _EXTRA_BYTES <= memory


def quant_sets(files: Iterable[FileSize]) -> list[QuantFiles]:
    """The models among the files, sorted by name. Projectors and importance matrices aren't models."""
    sets: dict[tuple[str, int], dict[int, FileSize]] = {}
    for file in files:
        if not is_model_name(file.path):
            continue
        name, number, count = shard_number(file.path)
        sets.setdefault((name, count), {})[number] = file
    return [
        QuantFiles(
            name=name,
            quant=quant_of(name),
            files=tuple(shards[number] for number in sorted(shards)),
            missing=tuple(islice((n for n in range(1, count + 1) if n not in shards), _MAX_LISTED)),
            count=count,
        )
        for (name, count), shards in sorted(sets.items())
    ]


def is_model_name(path: str) -> bool:
    """Whether a file with this path is a model or a shard of one, by its name alone."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and parts[-1].lower().endswith(".gguf")
        and not any(part.startswith(".") for part in parts)
        and _NO_MODEL.search(parts[-1]) is None
    )


def is_projector_name(path: str) -> bool:
    """Whether a file with this path is the image or audio part of a model, by its name alone."""
    return PurePosixPath(path).name.lower().endswith(".gguf") and "mmproj" in PurePosixPath(path).name.lower()


def quant_of(path: str) -> str | None:
    """The quantisation that a path names: the last one in the file's name, or else in the nearest folder's name."""
    for part in reversed(PurePosixPath(path).parts):
        found = _QUANT.findall(part)
        if found:
            return str(found[-1]).upper()
    return None


def choose_quant(
    files: Iterable[FileSize], *, quant: str | None = None, file: str | None = None, memory: int | None = None
) -> QuantFiles:
    """The files to take of a repository: the named ``file`` or ``quant``, or else the first of ``ORDER`` that fits.

    Of several models with one quantisation, the one with the shortest name is taken. Where no model fits into
    ``memory``, the smallest is returned: the caller asks ``fits``. Raises ModelError, which lists what there is, and
    names the missing shards of an incomplete set.
    """
    sets = quant_sets(files)
    if not sets:
        raise ModelError("there is no .gguf file of a model in it")
    if file is not None:
        return _whole(_named_file(sets, file))
    if quant is not None and quant.lower() != "latest":  # Ollama's tag for no tag.
        return _whole(_named_quant(sets, quant))
    whole = [each for each in sets if not each.missing]
    if not whole:
        return _whole(sets[0])
    whole = [each for each in whole if _CHANGES.search(PurePosixPath(each.name).name) is None] or whole
    fitting = [each for each in whole if each.fits(memory)]
    if not fitting:
        return min(whole, key=lambda each: (each.bytes, each.name))
    return min(fitting, key=_preference)


def _preference(each: QuantFiles) -> tuple[int, int, str]:
    rank = len(ORDER) if each.quant is None else _RANK.get(each.quant, len(ORDER))
    return rank, len(each.name), each.name


def _named_file(sets: list[QuantFiles], file: str) -> QuantFiles:
    """The set that has the file: by its whole path, or else by its name in any folder; in any case."""
    wanted = file.lower()
    for own in (lambda path: path.lower(), lambda path: PurePosixPath(path).name.lower()):
        found = [each for each in sets if any(own(shard.path) == wanted for shard in each.files)]
        if found:
            return found[0]
    names = _listed([each.files[0].path for each in sets])
    raise ModelError(f"it has no model file {file}; it has {names}")


def _named_quant(sets: list[QuantFiles], quant: str) -> QuantFiles:
    """The set of this quantisation. ``Q4_K_XL`` finds ``UD-Q4_K_XL``, and a name's end counts where no word is one."""
    wanted = quant.upper()
    ways = (
        lambda each: each.quant == wanted,
        lambda each: each.quant == f"UD-{wanted}",
        lambda each: re.search(rf"(?:^|[-._/]){re.escape(wanted)}$", each.name.upper()) is not None,
    )
    for way in ways:
        found = [each for each in sets if way(each)]
        if found:
            # An incomplete set is taken where there is no whole one, so that its missing shards are named.
            return min(found, key=lambda each: (bool(each.missing), *_preference(each)))
    raise ModelError(f"it has no {quant}; it has {listed_quants(sets)}")


def listed_quants(sets: list[QuantFiles]) -> str:
    """What there is, for a message: quantisations with their sizes, in the order of preference."""
    ordered = sorted(sets, key=_preference)
    return _listed([f"{each.quant or each.name} ({each.bytes / 1e9:.1f} GB)" for each in ordered])


def _listed(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _whole(found: QuantFiles) -> QuantFiles:
    if found.missing:
        numbers = _listed([str(number) for number in found.missing])
        raise ModelError(f"{found.name} has {found.count} shards, and shard {numbers} is missing")
    return found
