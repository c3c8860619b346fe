"""The kernels of recurrent layers, for each instruction set: what their proof asks, and what it doesn't."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mutated_sources import mutate_source
from tailrace.engine.kernels import build
from tailrace.engine.kernels.proofs.recurrent import (
    concat_by,
    convolution_by,
    delta_net_by,
    delta_net_inputs,
    recurrent_counts,
    scan_by,
    scan_inputs,
    wrong_recurrent,
)
from tailrace.engine.kernels.proofs.stand_in import set_upstream
from tailrace.engine.native_libs.compiler import find_compiler
from tailrace.engine.native_libs.ggml_headers import include_folders
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.machine.isa import read_cpu_flags

#: CPU flags and compiler flags of each instruction set.
_SETS = {
    "avx512": (TIERS["avx512"].cpu_flags, TIERS["avx512"].compiler_flags),
    "avx2": (frozenset(("avx2", "fma", "f16c")), ("-mavx2", "-mfma", "-mf16c")),
}
_OPERATION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def _build(folder: Path, sources: Path, name: str) -> ctypes.CDLL:
    """The kernels of recurrent layers alone, which take two seconds to compile."""
    cpu_flags, flags = _SETS[name]
    if not cpu_flags <= read_cpu_flags():
        pytest.skip(f"this CPU has no {name}")
    files = [*sorted((sources / "recurrent").glob("*.c")), sources / "loading/ggml_api.c", sources / "graph/plan.c"]
    include = [flag for each in include_folders() for flag in ("-isystem", str(each))]
    library = folder / f"recurrent-{name}.so"
    find_compiler().build([(each.stem, each) for each in files], [*flags, f"-I{sources}", *include], library)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module", params=sorted(_SETS))
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    library = _build(tmp_path_factory.mktemp("recurrent"), build.SOURCES, request.param)
    yield library
    set_upstream(library, {})


def test_results_are_those_of_the_formulas(kernels: ctypes.CDLL) -> None:
    assert wrong_recurrent(kernels) == []
    counts = recurrent_counts(kernels)
    assert all(own and not upstream for own, upstream in counts.values()), counts


@pytest.mark.parametrize(
    "mistakes",
    [
        [
            ("delta[r] * b->key_query[t]", "delta[r]"),
            ("s.ids[h.sequence] *", "h.sequence *"),
            ("for (int i = 1; i < 4; i++) sum", "for (int i = 1; i < 3; i++) sum"),
        ],
        [
            ("slot = v->ne[2] - 1 - token", "slot = v->ne[2] - token"),
            ("vf_min(vf_set1(20.0f), x)", "vf_min(vf_set1(0.0f), x)"),
            ("transpose_tile(from + i * stride,", "transpose_tile(from,"),
        ],
    ],
    ids=["numbers", "places"],
)
def test_the_proof_notices_mistakes(tmp_path: Path, mistakes: list[tuple[str, str]]) -> None:
    """One in each kind of operation."""
    sources = build.SOURCES
    for number, (right, wrong) in enumerate(mistakes):
        sources = mutate_source(sources, tmp_path / f"kernels-{number}", right, wrong)
    wrong_ones = wrong_recurrent(_build(tmp_path, sources, "avx2"))
    assert wrong_ones == ["gated delta-nets", "state-space scans", "short convolutions"]


@pytest.mark.parametrize("gates", [False, True])
def test_a_delta_net_computes_one_token_as_many(kernels: ctypes.CDLL, gates: bool) -> None:
    *tokens, states = delta_net_inputs(np.random.default_rng(1), 64, 1, 2, 21, 3, gates)
    results, (after,) = delta_net_by(kernels, *tokens, states, 1)  # type: ignore[call-arg,arg-type]
    for sequence in range(3):
        state = states[sequence : sequence + 1]
        for token in range(21):
            one = [part[sequence : sequence + 1, token : token + 1] for part in tokens]
            result, (state,) = delta_net_by(kernels, *one, state, 1)  # type: ignore[call-arg,arg-type]
            np.testing.assert_array_equal(result[0, 0], results[sequence, token])
        np.testing.assert_array_equal(state[0], after[sequence])


@pytest.mark.parametrize(("size", "channels", "heads"), [(64, 8, 2), (16, 1, 32)], ids=["mamba2", "mamba"])
def test_a_scan_computes_one_token_as_many(kernels: ctypes.CDLL, size: int, channels: int, heads: int) -> None:
    states, x, steps, decays, b, c, ids = scan_inputs(np.random.default_rng(2), size, channels, heads, 1, 21, 3)
    results, (after,) = scan_by(kernels, states, x, steps, decays, b, c, ids, 1)
    first = np.zeros(1, np.int32)
    for sequence, row in enumerate(ids):
        state = states[row : row + 1]
        for token in range(21):
            one = [part[sequence : sequence + 1, token : token + 1] for part in (x, steps, b, c)]
            result, (state,) = scan_by(kernels, state, one[0], one[1], decays, one[2], one[3], first, 1)
            np.testing.assert_array_equal(result[0, 0], results[sequence, token])
        np.testing.assert_array_equal(state[0], after[sequence])


@pytest.mark.parametrize("taps", [3, 4])
def test_a_convolution_computes_one_token_as_many(kernels: ctypes.CDLL, taps: int) -> None:
    random = np.random.default_rng(3)
    joined = random.standard_normal((2, 32, 30)).astype(np.float32)
    filters = random.standard_normal((32, taps)).astype(np.float32)
    results = convolution_by(kernels, joined, filters)
    for token in range(results.shape[1]):
        one = np.ascontiguousarray(joined[:, :, token : token + taps])
        np.testing.assert_array_equal(convolution_by(kernels, one, filters)[:, 0], results[:, token])


def test_nan_stays_visible_and_in_its_head(kernels: ctypes.CDLL) -> None:
    inputs = delta_net_inputs(np.random.default_rng(4), 32, 2, 2, 4, 2, False)
    expected, _ = delta_net_by(kernels, *inputs, 1)
    inputs[2][1, 2, 0, 5] = np.nan  # a value of sequence 1, token 2, head 0
    found, (state,) = delta_net_by(kernels, *inputs, 1)
    damaged = np.isnan(found)
    assert damaged[1, 2:, 0, 5].all()
    assert damaged.sum() == 2
    np.testing.assert_array_equal(found[~damaged], expected[~damaged])
    assert np.isnan(state[1, 0, 5]).all()
    scanned = scan_inputs(np.random.default_rng(5), 16, 1, 32, 1, 3, 2)
    scanned[2][0, 1, 7] = np.nan  # a step
    result, _ = scan_by(kernels, *scanned, 1)
    assert np.isnan(result[0, 1:, 7]).all()
    assert np.isnan(result).sum() == 2


def test_unknown_shapes_are_delegated(kernels: ctypes.CDLL) -> None:
    """Rows that don't fill vectors, and operands that aren't side by side as expected."""
    calls: list[str] = []
    names = ("gated_delta_net", "ssm_scan", "ssm_conv", "concat")
    upstream = {
        f"ggml_compute_forward_{name}": _OPERATION(lambda _params, _result, name=name: calls.append(name))
        for name in names
    }
    set_upstream(kernels, upstream)
    random = np.random.default_rng(6)
    before = recurrent_counts(kernels)
    delta_net_by(kernels, *delta_net_inputs(random, 24, 1, 1, 1, 1, False), 1)
    scan_by(kernels, *scan_inputs(random, 20, 4, 1, 1, 1, 1), 1)
    scan_by(kernels, *scan_inputs(random, 16, 1, 12, 1, 1, 1), 1)
    states, x, steps, decays, b, c, ids = scan_inputs(random, 16, 4, 1, 1, 1, 1)
    scan_by(kernels, states, x, steps, decays, b, c, ids + 100, 1)  # a row that doesn't exist
    floats = random.standard_normal((1, 20, 8)).astype(np.float32)
    convolution_by(kernels, floats, np.ones((20, 4), np.float32))
    concat_by(kernels, floats, floats.repeat(2, axis=2)[:, :, ::2])
    set_upstream(kernels, {})
    assert calls == ["gated_delta_net", "ssm_scan", "ssm_scan", "ssm_scan", "ssm_conv", "concat"]
    after = recurrent_counts(kernels)
    assert {name: after[name][1] - before[name][1] for name in names} == {name: calls.count(name) for name in names}
