"""The kernels' library, built once for all tests that only use it."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator

import pytest

import object_cache
from kernel_tiers import PARAMS
from tailrace.engine.kernels import build
from tailrace.engine.native_libs import NativeUnavailable, compiler
from tailrace.engine.native_libs.compiler import find_compiler


@pytest.fixture(scope="session", autouse=True)
def _equal_code_is_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most tests change one file of a library, and would compile all others again."""
    try:
        path = find_compiler().path
    except NativeUnavailable:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(object_cache.install(path, tmp_path_factory.mktemp("objects"))))
        yield


@pytest.fixture
def quick_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer optimisations a library compiles in half of the time. All tests that use them share the objects.

    For folders of a test's own alone: a server's cache would take such a library for one with all optimisations.
    """
    monkeypatch.setattr(compiler, "COMPILE_FLAGS", ("-O1", *compiler.COMPILE_FLAGS[1:]))


@pytest.fixture(scope="session", params=PARAMS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels of each tier that this CPU has, as a server caches them: compiled for the first test alone.

    They are a copy, for the file itself is loaded once in a process: an engine that runs in this one, for other tests,
    would have the same state.
    """
    if request.param is None:
        pytest.skip("this CPU can't run them: test_build.py sees that they are refused")
    library = ctypes.CDLL(str(shutil.copy(build.build_kernels(request.param), tmp_path_factory.mktemp("kernels"))))
    library.ggml_aligned_malloc.restype = ctypes.c_void_p
    library.ggml_aligned_malloc.argtypes = [ctypes.c_size_t]
    library.ggml_aligned_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
