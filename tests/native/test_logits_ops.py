"""The passes over logits in C: they compute what NumPy computes, and NumPy replaces them where C isn't available."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutated_sources import mutate_source
from tailrace.engine.native_libs import NativeUnavailable, tiers
from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask
from tailrace.engine.sampling.logits_ops.native import build, proof
from tailrace.engine.sampling.logits_ops.native.ops import NativeOps
from tailrace.engine.sampling.logits_ops.numpy_impl import NumpyOps
from tailrace.engine.sampling.logits_ops.numpy_impl.view import NumpyView
from tailrace.engine.sampling.logits_ops.sampler_steps import STEP, SamplerKind, Steps

RUNNABLE = [tier for tier in build.LOGITS_TIERS if tiers.TIERS[tier].supported]
_REASON = "this CPU can't run it: a test below sees that it is refused"
needs_c = pytest.mark.skipif(not RUNNABLE, reason=_REASON)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(tier, marks=pytest.mark.skipif(tier not in RUNNABLE, reason=_REASON))
        for tier in build.LOGITS_TIERS
    ],
)
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeOps:
    return NativeOps(ctypes.PyDLL(str(build.build_logits_ops(request.param, tmp_path_factory.mktemp("cache")))))


@pytest.fixture
def restored() -> Iterator[None]:
    """After the test NumPy is active again, as in all other tests."""
    yield
    logits_ops.enable_native("off")


def _row(seed: int, size: int, spread: float, levels: int, special: list[float]) -> LogitsRow:
    """Random logits. ``levels`` rounds them so that many are equal; the ``special`` values are put among them."""
    random = np.random.default_rng(seed)
    row: LogitsRow = random.normal(0, 1, size).astype(np.float32)
    if levels:
        row = np.round(row * np.float32(levels), out=row) / np.float32(levels)
    row *= np.float32(spread)
    for value in special:
        row[random.integers(0, size, 1 + size // 20)] = value
    return row


def _mask(seed: int, size: int, part: float) -> Mask:
    bits = np.random.default_rng(seed).random(-(-size // 32) * 32) < part
    words: Mask = np.packbits(bits, bitorder="little").view(np.uint32)
    return words


sizes = st.one_of(st.integers(1, 700), st.integers(3_900, 4_400), st.sampled_from([16_384, 20_001, 66_001]))
some_rows = st.builds(
    _row,
    seed=st.integers(0, 2**32),
    size=sizes,
    spread=st.sampled_from([0.0, 1e-3, 3.0, 50.0, 1e30]),
    levels=st.sampled_from([0, 1, 7]),
    special=st.lists(st.sampled_from([-np.inf, -np.inf, -0.0, 1e-42, np.inf, np.nan, -np.nan]), max_size=2),
)


@needs_c
@settings(max_examples=150, deadline=None)
@given(row=some_rows, part=st.sampled_from([None, 0.0, 0.002, 0.5, 0.97, 1.0]), seed=st.integers(0, 2**32))
def test_c_computes_every_pass_as_numpy_does(native: NativeOps, row: LogitsRow, part: float | None, seed: int) -> None:
    mask = None if part is None else _mask(seed, len(row), part)
    before = row.tobytes()
    assert list(proof.row_differences(native, row, mask)) == []
    assert row.tobytes() == before


@needs_c
@settings(max_examples=80, deadline=None)
@given(
    row=some_rows,
    repeat=st.sampled_from([0.3, 1.0, 1.1, 3.0]),
    frequency=st.sampled_from([-1.3, 0.0, 0.7]),
    presence=st.sampled_from([-0.1, 0.0, 1.9]),
    seed=st.integers(0, 2**32),
)
def test_c_changes_logits_to_the_last_bit_as_numpy_does(
    native: NativeOps, row: LogitsRow, repeat: float, frequency: float, presence: float, seed: int
) -> None:
    adjustment = _adjustment(len(row), repeat, frequency, presence, seed)
    assert list(proof.adjustment_differences(native, row, adjustment)) == []
    if not np.isnan(row).any():
        assert list(proof.row_maxima_differences(native, row, adjustment)) == []


def _adjustment(size: int, repeat: float, frequency: float, presence: float, seed: int) -> LogitAdjustment:
    random = np.random.default_rng(seed)
    adjustment = LogitAdjustment(repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence)
    adjustment.bias_tokens, adjustment.repeat_tokens, adjustment.count_tokens = (
        random.permutation(size)[: random.integers(0, min(size, 1300) + 1)] for _ in range(3)
    )
    adjustment.bias = random.normal(0, 30, len(adjustment.bias_tokens)).astype(np.float32)
    adjustment.counts = random.integers(1, 40, len(adjustment.count_tokens)).astype(np.float32)
    return adjustment


@pytest.mark.parametrize("choice", [pytest.param("on", marks=needs_c), "off"])
@pytest.mark.usefixtures("restored")
def test_a_token_beyond_the_row_is_refused_and_changes_nothing(choice: str) -> None:
    logits_ops.enable_native(choice)
    row = np.arange(5000, dtype=np.float32)
    adjustment = LogitAdjustment(presence_penalty=1.0)
    adjustment.bias_tokens, adjustment.bias = np.array([3]), np.ones(1, np.float32)
    adjustment.count_tokens, adjustment.counts = np.array([4, 5000]), np.ones(2, np.float32)
    with pytest.raises(IndexError):
        logits_ops.for_row(row).apply(row, adjustment)
    assert (row == np.arange(5000)).all()


@pytest.mark.parametrize("choice", [pytest.param("on", marks=needs_c), "off"])
@pytest.mark.parametrize("part", [0.001, 0.9])
@pytest.mark.usefixtures("restored")
def test_forbidden_tokens_may_have_any_logit(choice: str, part: float) -> None:
    logits_ops.enable_native(choice)
    mask = _mask(1, 50_000, part)
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:50_000].astype(bool)
    row = np.random.default_rng(2).normal(0, 1, 50_000).astype(np.float32)
    forbidden = np.flatnonzero(~allowed)
    expected = int(np.where(allowed, row, -np.inf).argmax())
    for value in (np.nan, np.inf):
        row[forbidden[:3]] = value
        assert logits_ops.for_row(row).argmax(row, mask) == expected
        assert logits_ops.for_row(row).view(row, mask).max_logit == row[expected]


@needs_c
@pytest.mark.usefixtures("restored")
def test_numpy_takes_short_strided_and_read_only_rows() -> None:
    logits_ops.enable_native("on")
    table: Any = np.random.default_rng(3).normal(0, 1, (5000, 2))
    single: LogitsRow = table.astype(np.float32)
    read_only = single[:, 0].copy()
    read_only.flags.writeable = False
    for row in (table[:, 0].copy(), single[:, 0], read_only):
        assert logits_ops.for_row(row).argmax(row) == int(row.argmax())
        assert isinstance(logits_ops.for_row(row).view(row), NumpyView)
    row = single[:, 0].copy()
    assert not isinstance(logits_ops.for_row(row).view(row), NumpyView)
    for empty in (single[:0], np.zeros((0, 5000), np.float32)):
        assert logits_ops.for_row(empty).argmax_of_rows(empty) == []


def _step(kind: int) -> Steps:
    step: Steps = np.array([(kind, 1, 1.0, 0.5, 1.0)], STEP)
    return step


def test_numpy_has_every_sampler_and_refuses_others() -> None:
    for kind in SamplerKind:
        assert NumpyOps().run_samplers(np.zeros(3), 3, 1.0, _step(kind)).n_candidates > 0
    with pytest.raises(ValueError, match="no sampler"):
        NumpyOps().run_samplers(np.zeros(3), 3, 1.0, _step(len(SamplerKind)))


@needs_c
def test_c_has_every_sampler_and_refuses_others(native: NativeOps) -> None:
    for kind in SamplerKind:
        assert native.run_samplers(np.zeros(3), 3, 1.0, _step(kind)).n_candidates > 0
    with pytest.raises(ValueError, match="no sampler"):
        native.run_samplers(np.zeros(3), 3, 1.0, _step(len(SamplerKind)))


def test_the_proof_has_a_step_of_every_sampler() -> None:
    assert set(proof.STEPS["kind"].tolist()) == set(SamplerKind)


@needs_c
def test_a_mask_that_is_too_short_is_refused(native: NativeOps) -> None:
    with pytest.raises(ValueError, match="a mask of 3 words for 97 tokens"):
        native.argmax(np.zeros(97, np.float32), np.ones(3, np.uint32))


@needs_c
@pytest.mark.parametrize(
    ("right", "wrong", "failed"),
    [
        ("no_nan[i % 2] = order16_of(no_nan[i % 2], a, b);", "", "view"),
        ("if (block_max > max_logit) {", "if (block_max >= max_logit) {", "argmax"),
        ("mask[2 * i + 1], none, p + LANES", "mask[2 * i], none, p + LANES", "view"),
        ("for (; hits_; hits_ &= hits_ - 1)", "if (hits_)", "tokens above"),
        ("keys[j - 1] > key", "keys[j - 1] < key", "top_k"),
        ("left = first + 1", "left = first", "filter"),
        ("1.0f / 24", "1.0f / 25", "sum of exponentials, probabilities"),
    ],
)
def test_a_library_with_wrong_results_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, failed: str
) -> None:
    monkeypatch.setattr(build, "SOURCES", mutate_source(build.SOURCES, tmp_path / "logits_ops", right, wrong))
    cache = tmp_path / "cache"
    with pytest.raises(NativeUnavailable, match=f"computes (.*, )?{failed}(, .*)? wrongly"):
        build.build_logits_ops(RUNNABLE[0], cache)
    assert list(cache.glob("*.so")) == []


@needs_c
def test_every_pass_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One library has a mistake in each pass, because compiling takes seconds."""
    mistakes = [
        ("make_row(logits + i * size, 0, size)", "make_row(logits, 0, size)", "argmax of rows"),
        ("sums[1] = sum_value(weighted);", "sums[1] = sum_value(total);", "entropy"),
        (
            "mean_and_deviation[1] = sqrt(squares / (double)count);",
            "mean_and_deviation[1] = squares / (double)count;",
            "mean and deviation",
        ),
        ("- mean_distance <=", "- mean_distance >=", "samplers"),
        ("z[-at] = (int32_t)length;", "z[-at] = (int32_t)length + 1;", "match lengths"),
        (
            "i16_load(lengths + end - LANES - 1)",
            "i16_load(lengths + end - LANES)",
            "extended match lengths",
        ),
        ("if (length > max_length) length = max_length;", "", "continuations"),
    ]
    folder = build.SOURCES
    for right, wrong, failed in mistakes:
        folder = mutate_source(folder, tmp_path / failed, right, wrong)
    monkeypatch.setattr(build, "SOURCES", folder)
    with pytest.raises(NativeUnavailable) as raised:
        build.build_logits_ops(RUNNABLE[0], tmp_path / "cache")
    assert all(failed in str(raised.value) for _, _, failed in mistakes), raised.value


@pytest.mark.skipif("avx2" not in RUNNABLE, reason=_REASON)
def test_vectors_of_avx2_are_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One library has all mistakes; each is in an instruction that other passes don't use."""
    mistakes = [
        ("_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)", "_mm256_cvtps_epi32(whole), _mm256_set1_epi32(126)"),
        ("_mm256_add_epi32(x.high, one)", "x.high"),
        ("_mm256_setr_epi64x(16, 32, 64, 128)", "_mm256_setr_epi64x(16, 32, 128, 64)"),
        ("_mm256_cmpgt_epi32(b.high, a.high)", "_mm256_cmpgt_epi32(a.high, b.high)"),
        ("_mm256_blendv_ps(otherwise.high, _mm256_loadu_ps(p + 8), high)", "otherwise.high"),
    ]
    folder = build.SOURCES
    for number, (right, wrong) in enumerate(mistakes):
        folder = mutate_source(folder, tmp_path / str(number), right, wrong)
    monkeypatch.setattr(build, "SOURCES", folder)
    with pytest.raises(NativeUnavailable) as raised:
        build.build_logits_ops("avx2", tmp_path / "cache")
    found = str(raised.value)
    expected = ("probabilities", "extended match lengths", "mean and deviation", "continuations", "view")
    assert all(name in found for name in expected), found


@pytest.mark.usefixtures("restored")
def test_on_another_cpu_numpy_is_active_and_the_status_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["avx2"].cpu_flags - {"fma"})
    logits_ops.enable_native("on")
    assert logits_ops.status() == "this CPU lacks fma"
    row = np.zeros(5000, np.float32)
    assert isinstance(logits_ops.for_row(row).view(row), NumpyView)
    logits_ops.enable_native("off")
    assert logits_ops.status() == "off"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("flags_of", "choice", "built"),
    [
        ("avx512", "on", ["avx512"]),
        ("avx512", "avx2", ["avx2"]),
        ("avx2", "on", ["avx2"]),
        ("avx2", "avx512", []),
        ("avx512", "neon", []),
    ],
)
def test_the_fastest_tier_that_the_setting_allows_is_built(
    monkeypatch: pytest.MonkeyPatch, flags_of: tiers.TierName, choice: str, built: list[str]
) -> None:
    asked: list[str] = []

    def build_nothing(tier: tiers.TierName, cache: Path | None = None) -> Path:
        asked.append(tier)
        raise NativeUnavailable("none")

    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS[flags_of].cpu_flags)
    monkeypatch.setattr(build, "build_logits_ops", build_nothing)
    logits_ops.enable_native(choice)
    assert asked[:1] == built


def test_where_the_fastest_tier_can_not_be_built_the_next_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_avx2_alone(tier: tiers.TierName, cache: Path | None = None) -> Path:
        if tier != "avx2":
            raise NativeUnavailable("no compiler")
        return Path("made")

    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["avx512"].cpu_flags)
    monkeypatch.setattr(build, "build_logits_ops", build_avx2_alone)
    assert build.build_fastest("on") == Path("made")
    with pytest.raises(NativeUnavailable, match="no compiler"):
        build.build_fastest("avx512")


@pytest.mark.usefixtures("restored")
def test_without_a_compiler_numpy_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "read_cpu_flags", lambda: tiers.TIERS["avx512"].cpu_flags)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    logits_ops.enable_native("on")
    assert "no C compiler" in logits_ops.status()
