"""Compares a built library with the NumPy implementation."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from tailrace.engine.kernels.proofs.row_maxima import row_maxima_of
from tailrace.engine.sampling.logits_ops.adjustment import LogitAdjustment
from tailrace.engine.sampling.logits_ops.arrays import BLOCK, Float64Array, Int32Array, LogitsRow, Mask
from tailrace.engine.sampling.logits_ops.interface import LogitsOps
from tailrace.engine.sampling.logits_ops.native.ops import NativeOps
from tailrace.engine.sampling.logits_ops.native.row_maxima import RowMaxima
from tailrace.engine.sampling.logits_ops.numpy_impl import NumpyOps
from tailrace.engine.sampling.logits_ops.sampler_steps import STEP, SamplerKind, Steps

#: Sizes with every kind of rest: of a vector, of 256 and of 4096 tokens.
_SIZES = (1, 17, 255, 4096, 4097, 20_003, 49_152)
_TOP_KS = (1, 3, 40, 900, 1 << 31)
#: top_k, top_p, min_p, temperature.
_FILTERS = (
    (40, 0.95, 0.05, 0.8),
    (1, 0.5, 0.0, 1.0),
    (3000, 0.999, 0.0, 2.0),
    (700, 1.0, 0.01, 5e-324),
    (9, 0.0, 1.0, 1.0),
)
_NUMBERS = (0.0, 0.3, 0.7, float(np.nextafter(1.0, 0.0)))
#: Lengths of sorted lists, and of DRY's histories.
_LIST_SIZES = (1, 2, 16, 17, 18, 40, 333)
#: A step of each kind, with parameters that make it act on most lists.
STEPS: Steps = np.array(
    [
        (SamplerKind.TOP_K, 30, 0.0, 0.0, 0.0),
        (SamplerKind.TOP_P, 3, 0.9137, 0.0, 0.0),
        (SamplerKind.MIN_P, 2, -3.3, 0.0, 0.0),
        (SamplerKind.TYPICAL, 2, 0.7137, 0.0, 0.0),
        (SamplerKind.TYPICAL, 0, 0.9537, 0.0, 0.0),
        (SamplerKind.XTC, 1, 0.5, 0.0617, 0.4),
        (SamplerKind.XTC, 0, 0.5, 0.0, 0.6),
        (SamplerKind.TEMPERATURE, 0, 0.7, 0.0, 1.0),
        (SamplerKind.TEMPERATURE, 0, 0.6, 1.3, 0.7),
        (SamplerKind.TEMPERATURE, 0, 0.0, 0.0, 1.0),
        (SamplerKind.TOP_N_SIGMA, 0, 1.317, 0.0, 0.0),
        (SamplerKind.MIROSTAT, 49_152, 7.3, 0.0, 0.0),
        (SamplerKind.MIROSTAT_V2, 0, 3.17, 0.0, 0.0),
    ],
    STEP,
)
#: Of exponentials in single precision, and of their sums.
_TOLERANCE = 1e-6

_NUMPY: LogitsOps = NumpyOps()


def wrong_results(library: ctypes.CDLL) -> list[str]:
    """The passes that are missing in ``library`` or compute wrong results; empty if all is well."""
    try:
        native = NativeOps(library)
    except AttributeError as error:
        return [str(error)]
    random = np.random.default_rng(7)
    wrong: dict[str, None] = {}
    for size in _SIZES:
        for row in _random_rows(random, size):
            for mask in (None, _random_mask(random, size, 0.5), _random_mask(random, size, 0.001)):
                wrong |= dict.fromkeys(row_differences(native, row, mask))
            wrong |= dict.fromkeys(adjustment_differences(native, row, _random_adjustment(random, size)))
            if not np.isnan(row).any():
                wrong |= dict.fromkeys(row_maxima_differences(native, row, _random_adjustment(random, size)))
    for size in _LIST_SIZES:
        for logits in _falling_logits(random, size):
            for steps in (*STEPS, *(STEPS[order] for order in (random.permutation(len(STEPS)) for _ in range(3)))):
                wrong |= dict.fromkeys(sampler_differences(native, logits, np.atleast_1d(steps)))
    for size in _LIST_SIZES:
        for n_tokens in (1, 2, 30):
            tokens = random.integers(0, n_tokens, size).astype(np.int32)
            wrong |= dict.fromkeys(suffix_match_differences(native, tokens))
    return list(wrong)


def row_differences(native: NativeOps, row: LogitsRow, mask: Mask | None) -> Iterator[str]:
    """The passes over ``row`` whose results differ from NumPy's."""
    expected, found = _NUMPY.argmax(row, mask), native.argmax(row, mask)
    # Of several NaN or infinite logits, NumPy takes the first; any of them is an error.
    if not _same_token(row, expected, found):
        yield "argmax"
    if mask is None:
        two_rows = np.stack((row, row[::-1]))
        if _NUMPY.argmax_of_rows(two_rows) != native.argmax_of_rows(two_rows):
            yield "argmax of rows"
    reference, computed = _NUMPY.view(row, mask), native.view(row, mask)
    if not np.isfinite(reference.max_logit):
        if np.isfinite(computed.max_logit) or (computed.max_logit == -np.inf) != (reference.max_logit == -np.inf):
            yield "view"
        return
    if reference.max_logit != computed.max_logit:
        yield "view"
        return
    if any(not np.array_equal(reference.top_k(k), computed.top_k(k)) for k in _TOP_KS):
        yield "top_k"
    bounds = (computed.max_logit, computed.max_logit - 1.0, float(row[len(row) // 2]), -np.inf)
    if any(
        not np.array_equal(reference.tokens_above(bound), computed.tokens_above(bound))
        for bound in bounds
        if not np.isnan(bound)
    ):
        yield "tokens above"
    for filters in _FILTERS:
        (reference_ids, reference_probs), (computed_ids, computed_probs) = (
            reference.filter(*filters),
            computed.filter(*filters),
        )
        if not np.array_equal(reference_ids, computed_ids) or not np.allclose(
            reference_probs, computed_probs, rtol=1e-12
        ):
            yield "filter"
            break
        if any(
            _NUMPY.draw_index(computed_probs, number) != native.draw_index(computed_probs, number)
            for number in _NUMBERS
        ):
            yield "draw index"
    expected_sum = reference.probabilities()[1].sum(dtype=np.float64)
    if abs(computed.sum_exp() - expected_sum) > 2 * _TOLERANCE * expected_sum:
        yield "sum of exponentials"
    for temperature in (1.0, 0.3, 7.0, 5e-324):
        ids, probs = reference.probabilities(temperature)
        of_all_tokens = np.zeros(len(row), np.float32)
        of_all_tokens[slice(None) if ids is None else ids] = probs
        _, computed_probs32 = computed.probabilities(temperature)
        if not np.allclose(computed_probs32, of_all_tokens, rtol=_TOLERANCE, atol=1e-37):
            yield "probabilities"
        expected_sum, expected_entropy = reference.sum_exp_and_entropy(temperature)
        total, entropy = computed.sum_exp_and_entropy(temperature)
        # Each logit's distance is rounded to single precision before the sum.
        if abs(total - expected_sum) > _TOLERANCE * expected_sum * 10:
            yield "entropy"
        if abs(entropy - expected_entropy) > _TOLERANCE * (10 + 10 * abs(expected_entropy)):
            yield "entropy"
        # NumPy's own sums lose more digits where many probabilities are equal.
        exact = [computed_probs32[at : at + BLOCK].sum(dtype=np.float64) for at in range(0, len(row), BLOCK)]
        if not np.allclose(native.block_sums(computed_probs32), exact, rtol=_TOLERANCE):
            yield "block sums"
    tolerance = 1e-9 * max(1.0, abs(computed.max_logit))
    if not np.allclose(computed.mean_and_deviation(), reference.mean_and_deviation(), rtol=1e-9, atol=tolerance):
        yield "mean and deviation"


def sampler_differences(native: NativeOps, logits: Float64Array, steps: Steps) -> Iterator[str]:
    """Whether samplers leave other candidates of a list, or other probabilities, than NumPy's."""
    for n_candidates, temperature in ((len(logits), 1.0), (2 * len(logits) + 1, 0.5)):
        reference = _NUMPY.run_samplers(logits, n_candidates, temperature, steps)
        computed = native.run_samplers(logits, n_candidates, temperature, steps)
        same = computed[:3] == reference[:3] and bool(
            np.isclose(computed.temperature, reference.temperature, rtol=1e-9)
        )
        if not same or not np.allclose(computed.probs, reference.probs, rtol=1e-9):
            yield "samplers"


def suffix_match_differences(native: NativeOps, tokens: Int32Array) -> Iterator[str]:
    """The passes over DRY's history whose results differ from NumPy's."""
    size = len(tokens)
    reference, computed = np.zeros(size, np.int32), np.full(size, 7, np.int32)
    _NUMPY.match_lengths(tokens, reference)
    native.match_lengths(tokens, computed)
    if not np.array_equal(reference[:-1], computed[:-1]):
        yield "match lengths"
    native.match_lengths(tokens[:-1], computed)
    native.extend_match_lengths(tokens, computed, size)
    if not np.array_equal(reference[:-1], computed[:-1]):
        yield "extended match lengths"
    slot_of = np.zeros(1 + int(tokens.max()), np.int32)
    for begin, max_length, min_length in ((0, size, 1), (size // 3, 5, 2), (0, 3, 0)):
        both = []
        for ops in (_NUMPY, native):
            found, longest = np.zeros(size, np.int32), np.zeros(size, np.int32)
            count = ops.find_continuations(
                tokens, reference, begin, size, max_length, min_length, slot_of, found, longest
            )
            both.append(dict(zip(found[:count].tolist(), longest[:count].tolist(), strict=True)))
        if both[0] != both[1] or slot_of.any():
            yield "continuations"


def adjustment_differences(native: NativeOps, row: LogitsRow, adjustment: LogitAdjustment) -> Iterator[str]:
    """Whether an adjustment, or undoing it, differs from NumPy's in any bit."""
    reference, computed = row.copy(), row.copy()
    _NUMPY.apply(reference, adjustment)
    native.apply(computed, adjustment)
    if not np.array_equal(reference, computed, equal_nan=True):
        yield "apply"
    native.undo(computed, adjustment)
    if computed.tobytes() != row.tobytes():
        yield "undo"


def row_maxima_differences(native: NativeOps, row: LogitsRow, adjustment: LogitAdjustment) -> Iterator[str]:
    """The passes that differ from NumPy's if the row's maxima are stored: before, during and after ``adjustment``, and
    if the stored maxima belong to another row.
    """
    row = row.copy()
    maxima = row_maxima_of(row)
    before = maxima.copy()
    address = row.ctypes.data
    native.set_row_maxima(RowMaxima(address, 1, len(row), maxima.ctypes.data))
    try:
        yield from (f"{name} with row maxima" for name in row_differences(native, row, None))
        native.apply(row, adjustment)
        yield from (f"{name} with adjusted row maxima" for name in row_differences(native, row, None))
        if not np.isnan(row).any() and not np.array_equal(maxima, row_maxima_of(row)):
            yield "row maxima after apply"
        native.undo(row, adjustment)
        if not np.array_equal(maxima, before):
            yield "row maxima after undo"
        # Every maximum becomes another number, whatever its size: the greatest one is what the C code checks.
        np.nextafter(maxima, np.float32(np.inf), out=maxima)
        yield from (f"{name} with another row's maxima" for name in row_differences(native, row, None))
    finally:
        native.set_row_maxima(None)


def _same_token(row: LogitsRow, expected: int, found: int) -> bool:
    if expected >= 0 and not np.isfinite(row[expected]):
        return found >= 0 and not np.isfinite(row[found])
    return expected == found


def _random_rows(random: np.random.Generator, size: int) -> Iterator[LogitsRow]:
    """Distinct logits, many equal ones, zeros of both signs, some that are -inf, huge ones, and a NaN or an infinity
    somewhere.
    """
    row = random.normal(0, 4, size).astype(np.float32)
    yield row
    yield np.round(row)
    yield np.where(random.random(size) < 0.5, np.float32(0.0), np.float32(-0.0))
    yield np.where(random.random(size) < 0.9, np.float32(-np.inf), row)
    yield random.uniform(-3e38, 3e38, size).astype(np.float32)
    yield np.full(size, -np.inf, np.float32)
    for value in (np.nan, np.inf):
        broken = row.copy()
        broken[random.integers(size)] = value
        yield broken


def _falling_logits(random: np.random.Generator, size: int) -> Iterator[Float64Array]:
    """Lists of logits: distinct ones, nearly equal ones, many equal ones, and one far ahead."""
    for deviation in (3.0, 1e-3):
        yield np.sort(random.normal(0, deviation, size))[::-1].copy()
    yield np.sort(np.round(random.normal(0, 2, size)))[::-1].copy()
    yield np.append([500.0], np.zeros(size - 1))


def _random_mask(random: np.random.Generator, size: int, part: float) -> Mask:
    bits = random.random(-(-size // 32) * 32) < part
    words: Mask = np.packbits(bits, bitorder="little").view(np.uint32)
    return words


def _random_adjustment(random: np.random.Generator, size: int) -> LogitAdjustment:
    tokens = random.permutation(size)[: max(1, size // 3)]
    adjustment = LogitAdjustment(
        repeat_penalty=float(random.choice((0.7, 1.3))),
        frequency_penalty=float(random.normal()),
        presence_penalty=float(random.normal()),
    )
    adjustment.bias_tokens = tokens[::2].copy()
    adjustment.bias = random.normal(0, 9, len(tokens[::2])).astype(np.float32)
    adjustment.repeat_tokens, adjustment.count_tokens = tokens, tokens[::-1].copy()
    adjustment.counts = random.integers(1, 9, len(tokens)).astype(np.float32)
    return adjustment
