"""The kernels' table of formats: what is in it is ggml's, and what isn't in it is left to llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

from kernel_formats import ACTIVATIONS_OF, REPACKED
from mutated_sources import mutate_source
from tailrace.engine.kernels import build
from tailrace.engine.kernels.format_coverage import format_names
from tailrace.engine.kernels.proofs.attention import CACHE_TYPES
from tailrace.engine.kernels.proofs.random_weights import FLOATS, HALVES_AT
from tailrace.engine.kernels.proofs.stand_in import ThreadPool, set_upstream
from tailrace.engine.kernels.proofs.tensors import WEIGHTS, compute_params, pointer, set_sources, tensor_of
from tailrace.engine.native_libs import NativeUnavailable, compiler
from tailrace.engine.native_libs.ggml_layout import GgmlStruct
from tailrace.engine.native_libs.tiers import TIERS as ALL_TIERS
from tailrace.engine.native_libs.tiers import TierName

Row = ctypes.c_int32 * 9

TABLED = set(REPACKED)
#: ggml's types without a row, and numbers that ggml has no type for.
UNTABLED = [*(int(kind) for kind in Kind if kind not in TABLED), -1, 99, 1 << 20]
ACTIVATIONS = (Kind.Q8_0, Kind.Q8_1, Kind.Q8_K)


def rows_of(library: ctypes.CDLL) -> list[list[int]]:
    """The rows of the table."""
    library.tailrace_kernels_format.restype = ctypes.c_bool
    rows: list[list[int]] = []
    while library.tailrace_kernels_format(len(rows), row := Row()):
        rows.append(list(row))
    return rows


def test_the_names_in_the_source_are_those_of_the_table(library: ctypes.CDLL) -> None:
    """``tailrace list`` reads the names without a library."""
    assert {Kind[name] for name in format_names()} == {Kind(row[0]) for row in rows_of(library)}


def test_the_table_agrees_with_gguf(library: ctypes.CDLL) -> None:
    rows = rows_of(library)
    assert {Kind(row[0]) for row in rows} == TABLED
    for kind, size, weights, activations, _, _, scale_at, minimum_at, scale_bytes in rows:
        if Kind(kind) in FLOATS:
            assert (weights, size, activations) == (32, 64, kind)
            continue
        assert (weights, size) == GGML_QUANT_SIZES[Kind(kind)]
        assert activations in ACTIVATIONS
        assert GGML_QUANT_SIZES[Kind(activations)][0] == weights
        halves = (scale_at, minimum_at) if scale_bytes == 2 else (minimum_at,)
        assert tuple(at for at in halves if at >= 0) == HALVES_AT[Kind(kind)]


def test_there_is_no_row_outside_of_the_table(library: ctypes.CDLL) -> None:
    count = len(rows_of(library))
    assert not library.tailrace_kernels_format(count, Row())
    assert not library.tailrace_kernels_format(-1, Row())


class Upstream:
    """Stands for llama.cpp: notes what it is asked for, and says that it has done it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        count, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        sgemm = [pointer, count, count, count, pointer, count, pointer, count, pointer, count, number, number, number]
        self.functions: dict[str, ctypes._CData] = ThreadPool(1).functions | {
            "llamafile_sgemm": ctypes.CFUNCTYPE(ctypes.c_bool, *sgemm)(lambda *_: self._ask("sgemm")),
            "ggml_compute_forward_mul_mat_tiled": ctypes.CFUNCTYPE(ctypes.c_bool, pointer, pointer)(
                lambda *_: self._ask("tiled")
            ),
            "ggml_compute_forward_flash_attn_ext": ctypes.CFUNCTYPE(ctypes.c_bool, pointer, pointer)(
                lambda *_: self._ask("attention")
            ),
            "ggml_tiled_wdata_size": ctypes.CFUNCTYPE(ctypes.c_size_t, number, pointer)(lambda *_: 4321),
        }

    def _ask(self, name: str) -> bool:
        self.asked.append(name)
        return True


@pytest.fixture
def upstream(library: ctypes.CDLL) -> Iterator[Upstream]:
    upstream = Upstream()
    set_upstream(library, upstream.functions)
    yield upstream
    set_upstream(library, {})


def sgemm(library: ctypes.CDLL, weight_type: int, activation_type: int, result_type: int = Kind.F32) -> bool:
    """Offer a product of four rows of one block by one token."""
    memory = np.zeros(1 << 16, np.uint8)
    at = memory.ctypes.data_as(ctypes.c_void_p)
    one, types = ctypes.c_int64(1), map(ctypes.c_int, (weight_type, activation_type, result_type))
    params = compute_params()
    library.llamafile_sgemm.restype = ctypes.c_bool
    return bool(
        library.llamafile_sgemm(pointer(params), ctypes.c_int64(4), one, one, at, one, at, one, at, one, *types)
    )


@pytest.mark.parametrize("kind", [*UNTABLED, *FLOATS])
def test_a_product_of_a_type_that_is_not_computed_in_file_order_is_upstreams(
    library: ctypes.CDLL, upstream: Upstream, kind: int
) -> None:
    for activations in (*ACTIVATIONS, *FLOATS):
        assert sgemm(library, kind, activations)
    assert upstream.asked == ["sgemm"] * len((*ACTIVATIONS, *FLOATS))


@pytest.mark.parametrize("kind", ACTIVATIONS_OF)
def test_a_product_with_other_activations_or_another_result_is_upstreams(
    library: ctypes.CDLL, upstream: Upstream, kind: Kind
) -> None:
    activations = next(row[3] for row in rows_of(library) if row[0] == kind)
    for other in [other for other in (*ACTIVATIONS, *UNTABLED) if other != activations]:
        upstream.asked.clear()
        assert sgemm(library, kind, other)
        assert upstream.asked == ["sgemm"]
    upstream.asked.clear()
    assert sgemm(library, kind, activations, Kind.F16)
    assert upstream.asked == ["sgemm"]
    upstream.asked.clear()
    assert sgemm(library, kind, activations)
    assert upstream.asked == []


@pytest.mark.parametrize("kind", UNTABLED)
def test_weights_of_an_untabled_type_are_not_repacked(library: ctypes.CDLL, upstream: Upstream, kind: int) -> None:
    """Though they may be, and even if a block of theirs were as large as one that can be."""
    memory, activations = np.zeros(1 << 16, np.uint8), np.zeros((1, 256), np.float32)
    found = np.zeros((1, 16), np.float32)
    tokens, result = tensor_of(activations[None, None]), tensor_of(found[None, None])
    library.tailrace_kernels_repacked_bytes.restype = ctypes.c_int64
    library.ggml_tiled_wdata_size.restype = ctypes.c_size_t
    library.ggml_compute_forward_mul_mat_tiled.restype = ctypes.c_bool
    params = compute_params()
    library.tailrace_kernels_set_repack_budget(1, ctypes.c_int64(1 << 20))
    try:
        for size in (18, 20, 34, 144, 210):
            weights = GgmlStruct("ggml_tensor", type=kind, buffer=WEIGHTS, data=memory.ctypes.data)
            strides = (size, 256 // 32 * size, memory.nbytes, memory.nbytes)
            for index, (length, stride) in enumerate(zip((256, 16, 1, 1), strides, strict=True)):
                weights.set("ne", length, index)
                weights.set("nb", stride, index)
            set_sources(result, weights, tokens)
            upstream.asked.clear()
            assert library.ggml_compute_forward_mul_mat_tiled(pointer(params), pointer(result))
            assert upstream.asked == ["tiled"]
            assert library.ggml_tiled_wdata_size(2, pointer(result)) == 4321
        assert library.tailrace_kernels_repacked_bytes(1) == 0
    finally:
        library.tailrace_kernels_set_repack_budget(1, ctypes.c_int64(0))
        library.tailrace_kernels_free_repacked(1)


#: What attention is computed of: query, keys, values and mask.
ATTENTION_TYPES = (Kind.F32, Kind.F16, Kind.F16, Kind.F16)
#: Types of query, keys, values and mask that the kernels compute.
OWN_TYPES = ({Kind.F32}, *[{kind for types in CACHE_TYPES for kind in types}] * 2, {Kind.F16})


@pytest.mark.parametrize(
    ("place", "kind"),
    [(place, kind) for place, own in enumerate(OWN_TYPES) for kind in sorted({*UNTABLED, *TABLED} - own)],
)
def test_attention_over_other_types_is_upstreams(
    library: ctypes.CDLL, upstream: Upstream, place: int, kind: int
) -> None:
    shapes = ((1, 1, 1, 64), (1, 1, 16, 64), (1, 1, 16, 64), (1, 1, 1, 16))
    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    tensors = [tensor_of(array) for array in arrays]
    for tensor, right in zip(tensors, ATTENTION_TYPES, strict=True):
        tensor.set("type", right)
    tensors[place].set("type", kind)
    found = np.zeros((1, 1, 1, 64), np.float32)
    result = tensor_of(found)
    set_sources(result, *tensors)
    params = compute_params()
    library.ggml_compute_forward_flash_attn_ext(pointer(params), pointer(result))
    assert upstream.asked == ["attention"]


@pytest.mark.parametrize("tier", ["amx", "avx2"])  # Together they have all of the code.
def test_a_row_alone_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: TierName) -> None:
    """Each switch that has to know a format says so: no format is computed as another one."""
    last = "128,  Q8_K)"
    row = "X(IQ1_S, block_iq1_s, QK_K, 32, NIBBLES, qs, d, NO_MIN, 0, Q8_K)"
    monkeypatch.setattr(build, "SOURCES", mutate_source(build.SOURCES, tmp_path / "kernels", last, f"{last} {row}"))
    monkeypatch.setattr(type(ALL_TIERS[tier]), "require", lambda _: None)  # It is parsed, and never run.
    # A switch without a format is an error of the parser: optimising would only take time.
    monkeypatch.setattr(compiler, "COMPILE_FLAGS", (*compiler.COMPILE_FLAGS, "-fsyntax-only"))
    with pytest.raises(NativeUnavailable, match=r"enumeration value .*IQ1_S.* not handled in switch"):
        build.build_kernels(tier, tmp_path / "kept")
