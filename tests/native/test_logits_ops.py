"""Passes over rows of logits in C: they answer as NumPy does, and where they can't be, NumPy does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altered import altered
from tailrace.engine.kernels import KernelsUnavailable
from tailrace.engine.sampling import logits_ops
from tailrace.engine.sampling.logits_ops import Changes, LogitsRow, Mask, build, proof
from tailrace.engine.sampling.logits_ops import numpy_impl as plain
from tailrace.engine.sampling.logits_ops.native import Native
from tailrace.machine import isa

CAN = build.NEEDED in isa.read_isa().sets
needs_c = pytest.mark.skipif(not CAN, reason="this CPU can't run it: a test below sees that it is refused")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    return Native(ctypes.PyDLL(str(build.built(tmp_path_factory.mktemp("kept")))))


@pytest.fixture
def restored() -> Iterator[None]:
    """NumPy answers again after the test, as it does in all others."""
    yield
    logits_ops.enable_native("off")


def _row(seed: int, size: int, spread: float, levels: int, odd: list[float]) -> LogitsRow:
    """Random logits: ``levels`` rounds them so that many are equal, ``odd`` ones stand somewhere among them."""
    random = np.random.default_rng(seed)
    row: LogitsRow = random.normal(0, 1, size).astype(np.float32)
    if levels:
        row = np.round(row * np.float32(levels), out=row) / np.float32(levels)
    row *= np.float32(spread)
    for value in odd:
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
    odd=st.lists(st.sampled_from([-np.inf, -np.inf, -0.0, 1e-42, np.inf, np.nan, -np.nan]), max_size=2),
)


@needs_c
@settings(max_examples=150, deadline=None)
@given(row=some_rows, part=st.sampled_from([None, 0.0, 0.002, 0.5, 0.97, 1.0]), seed=st.integers(0, 2**32))
def test_c_answers_every_question_as_numpy_does(native: Native, row: LogitsRow, part: float | None, seed: int) -> None:
    mask = None if part is None else _mask(seed, len(row), part)
    before = row.tobytes()
    assert list(proof.differences(native, row, mask)) == []
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
    native: Native, row: LogitsRow, repeat: float, frequency: float, presence: float, seed: int
) -> None:
    changes = _changes(len(row), repeat, frequency, presence, seed)
    assert list(proof.changed_differently(native, row, changes)) == []
    if not np.isnan(row).any():
        assert list(proof.kept_differently(native, row, changes)) == []


def _changes(size: int, repeat: float, frequency: float, presence: float, seed: int) -> Changes:
    random = np.random.default_rng(seed)
    changes = Changes(repeat=repeat, frequency=frequency, presence=presence)
    changes.biased, changes.recent, changes.reply = (
        random.permutation(size)[: random.integers(0, min(size, 1300) + 1)] for _ in range(3)
    )
    changes.bias = random.normal(0, 30, len(changes.biased)).astype(np.float32)
    changes.counts = random.integers(1, 40, len(changes.reply)).astype(np.float32)
    return changes


@pytest.mark.parametrize("choice", [pytest.param("on", marks=needs_c), "off"])
@pytest.mark.usefixtures("restored")
def test_a_token_that_the_row_hasn_t_is_refused_and_changes_nothing(choice: str) -> None:
    logits_ops.enable_native(choice)
    row = np.arange(5000, dtype=np.float32)
    changes = Changes(presence=1.0)
    changes.biased, changes.bias = np.array([3]), np.ones(1, np.float32)
    changes.reply, changes.counts = np.array([4, 5000]), np.ones(2, np.float32)
    with pytest.raises(IndexError):
        logits_ops.apply(row, changes)
    assert (row == np.arange(5000)).all()


@pytest.mark.parametrize("choice", [pytest.param("on", marks=needs_c), "off"])
@pytest.mark.parametrize("part", [0.001, 0.9])
@pytest.mark.usefixtures("restored")
def test_what_a_mask_hides_may_be_anything(choice: str, part: float) -> None:
    logits_ops.enable_native(choice)
    mask = _mask(1, 50_000, part)
    allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[:50_000].astype(bool)
    row = np.random.default_rng(2).normal(0, 1, 50_000).astype(np.float32)
    hidden = np.flatnonzero(~allowed)
    expected = int(np.where(allowed, row, -np.inf).argmax())
    for value in (np.nan, np.inf):
        row[hidden[:3]] = value
        assert logits_ops.best(row, mask) == expected
        assert logits_ops.scan(row, mask).best == row[expected]


@needs_c
@pytest.mark.usefixtures("restored")
def test_rows_of_other_kinds_are_numpy_s() -> None:
    logits_ops.enable_native("on")
    table: Any = np.random.default_rng(3).normal(0, 1, (5000, 2))
    single: LogitsRow = table.astype(np.float32)
    fixed = single[:, 0].copy()
    fixed.flags.writeable = False
    for row in (table[:, 0].copy(), single[:, 0], fixed):
        assert logits_ops.best(row) == int(row.argmax())
        assert isinstance(logits_ops.scan(row), plain.LogitsView)
    assert not isinstance(logits_ops.scan(single[:, 0].copy()), plain.LogitsView)
    assert logits_ops.best_of_each(single[:0]) == []


@needs_c
def test_a_mask_that_is_too_short_is_refused(native: Native) -> None:
    with pytest.raises(ValueError, match="a mask of 3 words for 97 tokens"):
        native.best(np.zeros(97, np.float32), np.ones(3, np.uint32))


@needs_c
@pytest.mark.parametrize(
    ("right", "wrong", "question"),
    [
        ("fine[i % 2] = _mm512_mask_cmp_ps_mask(fine[i % 2], a, b, _CMP_ORD_Q);", "", "scan"),
        ("if (here > best) {", "if (here >= best) {", "best"),
        ("mask[2 * i + 1], p + LANES", "mask[2 * i], p + LANES", "scan"),
        ("row_of(logits + i * size, 0, size)", "row_of(logits, 0, size)", "best of each"),
        ("for (; hits_; hits_ &= hits_ - 1)", "if (hits_)", "above"),
        ("keys[j - 1] > key", "keys[j - 1] < key", "top"),
        ("kept = first + 1", "kept = first", "filtered"),
        ("const double target = number * total;", "const double target = total;", "place"),
        ("1.0f / 24", "1.0f / 25", "total"),
        ("1.0f / 24", "1.0f / 25", "weights"),
        ("c.repeat > 1.0f ?", "c.repeat < 1.0f ?", "apply"),
        ("write(row, c.recent, c.before + c.biases, c.recents);", "", "undo"),
    ],
)
def test_a_library_that_answers_wrongly_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, question: str
) -> None:
    monkeypatch.setattr(build, "FOLDER", altered(build.FOLDER, tmp_path / "rows", right, wrong))
    kept = tmp_path / "kept"
    with pytest.raises(KernelsUnavailable, match=f"computes (.*, )?{question}(, .*)? wrongly"):
        build.built(kept)
    assert list(kept.iterdir()) == []


@needs_c
def test_every_question_of_the_samplers_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a mistake of its own in one library: compiling takes seconds."""
    mistakes = [
        ("sums[1] = whole(weighted);", "sums[1] = whole(total);", "entropy"),
        ("both[1] = sqrt(squares / (double)many);", "both[1] = squares / (double)many;", "spread"),
        ("<= centre - distance(logits, r, next)", ">= centre - distance(logits, r, next)", "narrow"),
        ("found[-place] = (int32_t)length;", "found[-place] = (int32_t)length + 1;", "measure"),
        ("_mm512_loadu_si512(lengths + end - LANES - 1)", "_mm512_loadu_si512(lengths + end - LANES)", "extend"),
        ("if (length > limit) length = limit;", "", "followers"),
    ]
    folder = build.FOLDER
    for right, wrong, question in mistakes:
        folder = altered(folder, tmp_path / question, right, wrong)
    monkeypatch.setattr(build, "FOLDER", folder)
    with pytest.raises(KernelsUnavailable) as raised:
        build.built(tmp_path / "kept")
    assert all(question in str(raised.value) for _, _, question in mistakes), raised.value


@pytest.mark.usefixtures("restored")
def test_where_c_can_t_be_numpy_answers_and_the_state_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "read_isa", lambda: isa.Isa("x86_64", ("AVX2",), ()))
    logits_ops.enable_native("on")
    assert logits_ops.status() == "this CPU has no AVX-512"
    assert isinstance(logits_ops.scan(np.zeros(5000, np.float32)), plain.LogitsView)
    logits_ops.enable_native("off")
    assert logits_ops.status() == "off"


@pytest.mark.usefixtures("restored")
def test_without_a_compiler_there_is_no_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "NEEDED", isa.read_isa().sets[0] if isa.read_isa().sets else "")
    monkeypatch.setattr(build, "read_isa", lambda: isa.Isa("x86_64", (build.NEEDED,), ()))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    logits_ops.enable_native("on")
    assert "no C compiler" in logits_ops.status()
