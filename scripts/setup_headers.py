"""Keeps the headers of llama.cpp's ggml in the user's cache: tailrace's kernels are compiled against them.

A wheel holds the public headers alone. The private ones are in the binding's source distribution, so set-up takes both
from there. They depend on the binding's version and on nothing of this machine. Runs on the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from setup_pip import SetupError, run_pip

#: Where ggml lies in the source distribution, below its one folder.
_GGML = PurePosixPath("vendor/llama.cpp/ggml")
#: The part of it whose headers are kept: the public ones, ggml's own, and those of its CPU backend.
_FOLDERS = ("include", "src", "src/ggml-cpu")


def headers_folder(version: str, environment: Mapping[str, str]) -> Path:
    """The folder of the headers of a version of the binding, which ``engine/native_libs/ggml_headers.py`` reads."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tailrace" / "ggml-headers" / version


def have_headers(folder: Path) -> bool:
    """Whether the headers are there. The folder gets its name when it is complete."""
    return (folder / "include" / "ggml.h").is_file()


def download_source(
    package: str, version: str, python: Path, constraints: Path, environment: Mapping[str, str], into: Path
) -> Path:
    """The binding's source distribution, which the pip of ``python`` puts into ``into``. Raises SetupError."""
    pip = ["download", "--no-deps", "--no-binary", package, "--build-constraint", str(constraints)]
    pip += ["--dest", str(into), f"{package}=={version}"]
    run_pip(python, pip, "downloading llama.cpp", environment=environment)
    found = next(iter(sorted(into.glob("*.tar.gz"))), None)
    if found is None:
        raise SetupError(f"pip reported success and left no source distribution of {package} {version}.")
    return found


def keep_headers(source: Path, folder: Path) -> None:
    """Extract the headers of the source distribution ``source`` into ``folder``. Raises SetupError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="extracting-", dir=folder.parent) as name:
        work = Path(name) / "headers"
        try:
            with tarfile.open(source) as archive:
                for member, place in _headers(archive):
                    file = archive.extractfile(member)
                    assert file is not None
                    (work / place).parent.mkdir(parents=True, exist_ok=True)
                    (work / place).write_bytes(file.read())
        except (OSError, tarfile.TarError) as error:
            raise SetupError(f"llama.cpp's headers can't be extracted from {source}: {error}") from error
        if not have_headers(work):
            raise SetupError(f"{source.name} has no headers in {_GGML}: it isn't laid out as set-up expects.")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(work, folder)


def _headers(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """The headers in ``archive``, and the place of each below ggml's folder."""
    for member in archive.getmembers():
        path = PurePosixPath(member.name)
        below = PurePosixPath(*path.parts[1:])
        if not member.isfile() or path.suffix != ".h" or ".." in path.parts or not below.is_relative_to(_GGML):
            continue
        place = below.relative_to(_GGML)
        # Of ggml's other backends none is computed with here; the CPU's has folders of its own.
        if str(place.parent) in _FOLDERS or place.is_relative_to("src/ggml-cpu"):
            yield member, place
