"""Upstream's large memory: huge pages, and clearing it."""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from tailrace.engine.kernels.proofs.stand_in import set_upstream
from tailrace.engine.native_libs.ggml_layout import GgmlStruct

_HUGE_PAGES = """
import ctypes, json, re, sys
from pathlib import Path
library = ctypes.CDLL(sys.argv[1])
library.ggml_aligned_malloc.restype = ctypes.c_void_p
library.ggml_aligned_malloc.argtypes = [ctypes.c_size_t]
library.ggml_aligned_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
def in_huge_pages(size):
    address = library.ggml_aligned_malloc(size)
    assert address % 64 == 0
    ctypes.memset(address, 1, size)
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():  # proc(5): hg is MADV_HUGEPAGE
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            library.ggml_aligned_free(address, size)
            return "hg" in line.split()
print(json.dumps([library.ggml_aligned_malloc(0), in_huge_pages(1 << 16), in_huge_pages(64 << 20)]))
"""


def test_large_memory_is_in_huge_pages(library: ctypes.CDLL) -> None:
    """In a process of its own: in this one numpy may have asked for the heap that small memory comes from."""
    done = subprocess.run(
        [sys.executable, "-c", _HUGE_PAGES, library._name], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [None, False, Path("/sys/kernel/mm/transparent_hugepage").exists()]


@pytest.mark.parametrize(("size", "populated"), [((32 << 20) + 4096, True), ((320 << 20) + 4096, False)])
def test_clearing_large_memory_gives_its_pages_back(library: ctypes.CDLL, size: int, populated: bool) -> None:
    written_to = 33 << 20
    places: dict[int, int] = {}
    written: list[tuple[int, int]] = []
    clear = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint8)(lambda buffer, to: written.append((buffer, to)))
    base = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda buffer: places[buffer])
    length = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(lambda _: size)
    hosts = {1, 2}
    is_host = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda buffer: buffer in hosts)
    library.ggml_backend_buffer_clear.argtypes = [ctypes.c_void_p, ctypes.c_uint8]
    functions = {
        "ggml_backend_buffer_clear": clear,
        "ggml_backend_buffer_get_base": base,
        "ggml_backend_buffer_get_size": length,
        "ggml_backend_buffer_is_host": is_host,
    }
    set_upstream(library, functions)
    try:
        own = places[1] = library.ggml_aligned_malloc(size)
        ctypes.memset(own, 7, min(size, written_to))
        ctypes.memset(own + size - 4096, 7, 4096)
        library.ggml_backend_buffer_clear(1, 0)
        assert written == []
        # Memory of the start is populated, so that no step waits for it later (since Linux 5.14).
        assert _resident(own, size) == (size if populated else 4096)
        assert not any(ctypes.string_at(own, min(size, written_to)))
        assert not any(ctypes.string_at(own + size - 4096, 4096))
        library.ggml_backend_buffer_clear(1, 5)
        assert written == [(1, 5)]
        # Memory that the kernels haven't allocated: its pages may hold anything.
        with mmap.mmap(-1, 2 * size) as other:
            start = ctypes.addressof(ctypes.c_char.from_buffer(other))
            places[2] = -(-start // (2 << 20)) * (2 << 20)
            library.ggml_backend_buffer_clear(2, 0)
            assert written == [(1, 5), (2, 0)]
        # A device's buffer, whose addresses are another process's: here they mean memory of the kernels.
        places[3] = own
        ctypes.memset(own, 7, 4096)
        library.ggml_backend_buffer_clear(3, 0)
        assert written == [(1, 5), (2, 0), (3, 0)]
        assert ctypes.string_at(own, 4096) == bytes([7]) * 4096
        library.ggml_aligned_free(own, size)
        library.ggml_backend_buffer_clear(1, 0)
        assert written == [(1, 5), (2, 0), (3, 0), (1, 0)]
    finally:
        set_upstream(library, {})


def test_cells_are_touched_ahead_in_pieces(library: ctypes.CDLL) -> None:
    """Two tensors of 4,096 cells of 4 kB, and one of another size, which isn't part of the KV cache."""
    page, cells = 2 << 20, 4096
    shapes = [(4096, cells), (4096, cells), (4096, 100)]
    sizes = [cell * count for cell, count in shapes]
    library.ggml_backend_alloc_ctx_tensors_from_buft.restype = ctypes.c_void_p
    library.ggml_backend_alloc_ctx_tensors_from_buft.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.tailrace_kernels_populate_cells.restype = ctypes.c_int64
    library.tailrace_kernels_populate_cells.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool]
    library.tailrace_kernels_record_cells.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    own = library.ggml_aligned_malloc(sum(sizes))
    tensors = [GgmlStruct("ggml_tensor", data=own + sum(sizes[:index])) for index in range(len(shapes))]
    for tensor, (cell, count) in zip(tensors, shapes, strict=True):
        for index, (size, stride) in enumerate([(1024, 4), (count, cell), (1, cell * count), (1, cell * count)]):
            tensor.set("ne", size, index)
            tensor.set("nb", stride, index)
    pointers = [tensor.address for tensor in tensors]
    following = dict(zip(pointers, [*pointers[1:], None], strict=True))
    is_host = True
    functions = {
        "ggml_backend_buffer_is_host": ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda _: is_host),
        "ggml_backend_alloc_ctx_tensors_from_buft": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
            lambda context, kind: 1
        ),
        "ggml_get_first_tensor": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda context: pointers[0]),
        "ggml_get_next_tensor": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
            lambda context, tensor: following[tensor]
        ),
    }
    set_upstream(library, functions)
    try:
        library.tailrace_kernels_record_cells(7, cells, 1)
        assert library.ggml_backend_alloc_ctx_tensors_from_buft(None, None) == 1
        library.tailrace_kernels_end_record()
        dont_need = ctypes.c_int(4)
        assert ctypes.CDLL(None).madvise(ctypes.c_void_p(own), ctypes.c_size_t(sum(sizes)), dont_need) == 0
        assert _resident(own, sum(sizes)) == 0
        assert library.tailrace_kernels_populate_cells(7, 600, 9 * page, False) == 2 * page, "a whole one of each"
        assert ctypes.CDLL(None).madvise(ctypes.c_void_p(own), ctypes.c_size_t(sum(sizes)), dont_need) == 0
        library.tailrace_kernels_record_cells(7, cells, 1)
        assert library.ggml_backend_alloc_ctx_tensors_from_buft(None, None) == 1
        library.tailrace_kernels_end_record()
        wanted = 1500  # 3 pages of each
        moved = 0
        while piece := library.tailrace_kernels_populate_cells(7, wanted, page, True):
            assert piece <= page
            moved += piece
            assert _resident(own, sum(sizes)) == moved
        assert moved == 6 * page
        assert _resident(own, 3 * page) == _resident(own + sizes[0], 3 * page) == 3 * page
        assert library.tailrace_kernels_populate_cells(8, wanted, page, True) == 0, "another KV cache"
        library.tailrace_kernels_record_cells(7, 0, 1)
        assert library.tailrace_kernels_populate_cells(7, cells, page, True) == 0, "it was freed"
        is_host = False
        library.tailrace_kernels_record_cells(7, cells, 1)
        assert library.ggml_backend_alloc_ctx_tensors_from_buft(None, None) == 1
        library.tailrace_kernels_end_record()
        assert library.tailrace_kernels_populate_cells(7, cells, page, True) == 0, "a device's cells"
    finally:
        set_upstream(library, {})
        library.ggml_aligned_free(own, sum(sizes))


def _resident(address: int, size: int) -> int:
    """Bytes of it that are in memory, by mincore(2)."""
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
