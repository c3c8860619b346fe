"""Finds the headers of the llama.cpp that is installed: set-up extracts them from the binding's source distribution.

They depend on the binding's version alone, so machines of all kinds share one folder. Set-up writes it
(``scripts/setup_headers.py``); this module only reads it.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from tailrace import bundle
from tailrace.engine.native_libs import NativeUnavailable
from tailrace.folders import cache_folder

#: The versions of llama-cpp-python whose llama.cpp this code has been tested with: those that pyproject.toml allows.
KNOWN_VERSIONS = frozenset({"0.3.36"})


def binding_version() -> str:
    """The installed version of llama-cpp-python. Raises NativeUnavailable where there is none."""
    bundle.expose_binding()
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError as error:
        raise NativeUnavailable("llama-cpp-python isn't installed") from error


def include_folders() -> tuple[Path, ...]:
    """The folders of ``ggml_headers`` that are on a compiler's include path. Raises NativeUnavailable. None in a wheel,
    which has libraries in place of headers.
    """
    if bundle.is_there():
        return ()
    headers = ggml_headers()
    return (headers / "include", headers / "src", headers / "src" / "ggml-cpu")


def ggml_headers() -> Path:
    """The folder with the headers of the installed llama.cpp's ggml, public (``include``) and private (``src``), laid
    out as in its repository. Raises NativeUnavailable.
    """
    version = binding_version()
    folder = cache_folder() / "ggml-headers" / version
    if not (folder / "include" / "ggml.h").is_file():
        raise NativeUnavailable(
            f"the headers of llama.cpp aren't in {folder}: run python3 scripts/setup.py, which extracts them from the "
            f"source distribution of llama-cpp-python {version}"
        )
    return folder
