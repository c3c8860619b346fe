"""Whether a built library answers as NumPy does: before it is kept, and wherever a test asks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from tailrace.engine.kernels.interleaved_proof import maxima_of
from tailrace.engine.sampling.logits_ops import changes as plain_changes
from tailrace.engine.sampling.logits_ops import narrowing, repeats
from tailrace.engine.sampling.logits_ops import numpy_impl as plain
from tailrace.engine.sampling.logits_ops.changes import Changes
from tailrace.engine.sampling.logits_ops.native import Native, RowMaxima
from tailrace.engine.sampling.logits_ops.numpy_impl import LogitsRow, Mask, Numbers

#: Lengths with rests of every kind: of a vector, of 256 and of 4096 tokens.
_SIZES = (1, 17, 255, 4096, 4097, 20_003, 49_152)
_COUNTS = (1, 3, 40, 900, 1 << 31)
#: top_k, top_p, min_p, temperature.
_FILTERS = (
    (40, 0.95, 0.05, 0.8),
    (1, 0.5, 0.0, 1.0),
    (3000, 0.999, 0.0, 2.0),
    (700, 1.0, 0.01, 5e-324),
    (9, 0.0, 1.0, 1.0),
)
_NUMBERS = (0.0, 0.3, 0.7, float(np.nextafter(1.0, 0.0)))
#: Lengths of lists, and of histories.
_LISTS = (1, 2, 16, 17, 18, 40, 333)
#: A step of each kind, with numbers that make it act on most lists.
_STEPS: narrowing.Steps = np.array(
    [
        (narrowing.TOP_K, 30, 0.0, 0.0, 0.0),
        (narrowing.TOP_P, 3, 0.9137, 0.0, 0.0),
        (narrowing.MIN_P, 2, -3.3, 0.0, 0.0),
        (narrowing.TYPICAL, 2, 0.7137, 0.0, 0.0),
        (narrowing.TYPICAL, 0, 0.9537, 0.0, 0.0),
        (narrowing.XTC, 1, 0.5, 0.0617, 0.4),
        (narrowing.XTC, 0, 0.5, 0.0, 0.6),
        (narrowing.TEMPERATURE, 0, 0.7, 0.0, 1.0),
        (narrowing.TEMPERATURE, 0, 0.6, 1.3, 0.7),
        (narrowing.TEMPERATURE, 0, 0.0, 0.0, 1.0),
        (narrowing.TOP_N_SIGMA, 0, 1.317, 0.0, 0.0),
        (narrowing.MIROSTAT, 49_152, 7.3, 0.0, 0.0),
        (narrowing.MIROSTAT_V2, 0, 3.17, 0.0, 0.0),
    ],
    narrowing.STEP,
)
#: Of exponentials in single precision, and of their sums.
_TOLERANCE = 1e-6


def wrong_results(library: ctypes.CDLL) -> list[str]:
    """Questions that ``library`` doesn't answer, or answers wrongly; empty when all is well."""
    try:
        native = Native(library)
    except AttributeError as error:
        return [str(error)]
    random = np.random.default_rng(7)
    wrong: dict[str, None] = {}
    for size in _SIZES:
        for row in _rows(random, size):
            for mask in (None, _mask(random, size, 0.5), _mask(random, size, 0.001)):
                wrong |= dict.fromkeys(differences(native, row, mask))
            wrong |= dict.fromkeys(changed_differently(native, row, _changes(random, size)))
            if not np.isnan(row).any():
                wrong |= dict.fromkeys(kept_differently(native, row, _changes(random, size)))
    for size in _LISTS:
        for logits in _falling(random, size):
            for steps in (*_STEPS, *(_STEPS[order] for order in (random.permutation(len(_STEPS)) for _ in range(3)))):
                wrong |= dict.fromkeys(narrowed_differently(native, logits, np.atleast_1d(steps)))
    for size in _LISTS:
        for kinds in (1, 2, 30):
            tokens = random.integers(0, kinds, size).astype(np.int32)
            wrong |= dict.fromkeys(repeated_differently(native, tokens))
    return list(wrong)


def differences(native: Native, row: LogitsRow, mask: Mask | None) -> Iterator[str]:
    """The questions to ``row`` that ``native`` answers otherwise than NumPy, or to ``row`` as two rows."""
    expected, found = plain.best(row, mask), native.best(row, mask)
    # NumPy takes the first that is NaN or infinite where there are several of them: either is an error.
    if not _same(row, expected, found):
        yield "best"
    if mask is None:
        both = np.stack((row, row[::-1]))
        if plain.best_of_each(both) != native.best_of_each(both):
            yield "best of each"
    theirs, ours = plain.LogitsView(row, mask), native.scan(row, mask)
    if not np.isfinite(theirs.best):
        if np.isfinite(ours.best) or (ours.best == -np.inf) != (theirs.best == -np.inf):
            yield "scan"
        return
    if theirs.best != ours.best:
        yield "scan"
        return
    if any(not np.array_equal(theirs.top(count), ours.top(count)) for count in _COUNTS):
        yield "top"
    bounds = (ours.best, ours.best - 1.0, float(row[len(row) // 2]), -np.inf)
    if any(not np.array_equal(theirs.above(bound), ours.above(bound)) for bound in bounds if not np.isnan(bound)):
        yield "above"
    for filters in _FILTERS:
        (their_ids, their_weights), (our_ids, our_weights) = theirs.filtered(*filters), ours.filtered(*filters)
        if not np.array_equal(their_ids, our_ids) or not np.allclose(their_weights, our_weights, rtol=1e-12):
            yield "filtered"
            break
        if any(plain.place(our_weights, number) != native.place(our_weights, number) for number in _NUMBERS):
            yield "place"
    expected_total = theirs.weights()[1].sum(dtype=np.float64)
    if abs(ours.total() - expected_total) > 2 * _TOLERANCE * expected_total:
        yield "total"
    for temperature in (1.0, 0.3, 7.0, 5e-324):
        ids, weights = theirs.weights(temperature)
        all_of_them = np.zeros(len(row), np.float32)
        all_of_them[slice(None) if ids is None else ids] = weights
        _, found_weights = ours.weights(temperature)
        if not np.allclose(found_weights, all_of_them, rtol=_TOLERANCE, atol=1e-37):
            yield "weights"
        expected_total, expected_entropy = theirs.entropy(temperature)
        total, entropy = ours.entropy(temperature)
        # Each logit's distance is rounded to single precision before it is summed up.
        if abs(total - expected_total) > _TOLERANCE * expected_total * 10:
            yield "entropy"
        if abs(entropy - expected_entropy) > _TOLERANCE * (10 + 10 * abs(expected_entropy)):
            yield "entropy"
        # NumPy's own sums lose more digits where many weights are equal.
        exact = [found_weights[at : at + plain.BLOCK].sum(dtype=np.float64) for at in range(0, len(row), plain.BLOCK)]
        if not np.allclose(native.sums(found_weights), exact, rtol=_TOLERANCE):
            yield "sums"
    if not np.allclose(ours.spread(), theirs.spread(), rtol=1e-9, atol=1e-9 * max(1.0, abs(ours.best))):
        yield "spread"


def narrowed_differently(native: Native, logits: Numbers, steps: narrowing.Steps) -> Iterator[str]:
    """What ``native`` leaves otherwise than NumPy of candidates with these logits."""
    for size, temperature in ((len(logits), 1.0), (2 * len(logits) + 1, 0.5)):
        theirs = narrowing.narrow(logits, size, temperature, steps)
        ours = native.narrow(logits, size, temperature, steps)
        same = ours[:3] == theirs[:3] and bool(np.isclose(ours.temperature, theirs.temperature, rtol=1e-9))
        if not same or not np.allclose(ours.weights, theirs.weights, rtol=1e-9):
            yield "narrow"


def repeated_differently(native: Native, tokens: repeats.Tokens) -> Iterator[str]:
    """What ``native`` says otherwise than NumPy of the repetitions in a history, or in its beginning and one more."""
    size = len(tokens)
    theirs, ours = np.zeros(size, np.int32), np.full(size, 7, np.int32)
    repeats.measure(tokens, theirs)
    native.measure(tokens, ours)
    if not np.array_equal(theirs[:-1], ours[:-1]):
        yield "measure"
    native.measure(tokens[:-1], ours)
    native.extend(tokens, ours, size)
    if not np.array_equal(theirs[:-1], ours[:-1]):
        yield "extend"
    seen = np.zeros(1 + int(tokens.max()), np.int32)
    for begin, limit, least in ((0, size, 1), (size // 3, 5, 2), (0, 3, 0)):
        both = []
        for answers in (repeats, native):
            found, longest = np.zeros(size, np.int32), np.zeros(size, np.int32)
            many = answers.followers(tokens, theirs, begin, size, limit, least, seen, found, longest)
            both.append(dict(zip(found[:many].tolist(), longest[:many].tolist(), strict=True)))
        if both[0] != both[1] or seen.any():
            yield "followers"


def changed_differently(native: Native, row: LogitsRow, changes: Changes) -> Iterator[str]:
    """What ``native`` does otherwise than NumPy when ``changes`` are applied and undone."""
    theirs, ours = row.copy(), row.copy()
    plain_changes.apply(theirs, changes)
    native.apply(ours, changes)
    if not np.array_equal(theirs, ours, equal_nan=True):
        yield "apply"
    native.undo(ours, changes)
    if ours.tobytes() != row.tobytes():
        yield "undo"


def kept_differently(native: Native, row: LogitsRow, changes: Changes) -> Iterator[str]:
    """What ``native`` answers otherwise than NumPy to a row whose maxima are kept, before, while and after ``changes``
    are applied; or when they are kept of another row.
    """
    row = row.copy()
    kept = maxima_of(row)
    before = kept.copy()
    address = row.ctypes.data
    native.set_row_maxima(RowMaxima(address, 1, len(row), kept.ctypes.data))
    try:
        yield from (f"{name} of what is kept" for name in differences(native, row, None))
        native.apply(row, changes)
        yield from (f"{name} of what is kept and changed" for name in differences(native, row, None))
        if not np.isnan(row).any() and not np.array_equal(kept, maxima_of(row)):
            yield "maxima after apply"
        native.undo(row, changes)
        if not np.array_equal(kept, before):
            yield "maxima after undo"
        # Each of them, whatever its size: the greatest is what is checked, and 1e30 and 1 are 1e30.
        np.nextafter(kept, np.float32(np.inf), out=kept)
        yield from (f"{name} of what isn't its own" for name in differences(native, row, None))
    finally:
        native.set_row_maxima(None)


def _same(row: LogitsRow, expected: int, found: int) -> bool:
    if expected >= 0 and not np.isfinite(row[expected]):
        return found >= 0 and not np.isfinite(row[found])
    return expected == found


def _rows(random: np.random.Generator, size: int) -> Iterator[LogitsRow]:
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


def _falling(random: np.random.Generator, size: int) -> Iterator[Numbers]:
    """Lists of logits: distinct ones, nearly equal ones, many equal ones, and one far ahead."""
    for spread in (3.0, 1e-3):
        yield np.sort(random.normal(0, spread, size))[::-1].copy()
    yield np.sort(np.round(random.normal(0, 2, size)))[::-1].copy()
    yield np.append([500.0], np.zeros(size - 1))


def _mask(random: np.random.Generator, size: int, part: float) -> Mask:
    bits = random.random(-(-size // 32) * 32) < part
    words: Mask = np.packbits(bits, bitorder="little").view(np.uint32)
    return words


def _changes(random: np.random.Generator, size: int) -> Changes:
    some = random.permutation(size)[: max(1, size // 3)]
    changes = Changes(
        repeat=float(random.choice((0.7, 1.3))), frequency=float(random.normal()), presence=float(random.normal())
    )
    changes.biased, changes.bias = some[::2], random.normal(0, 9, len(some[::2])).astype(np.float32)
    changes.recent, changes.reply = some, some[::-1].copy()
    changes.counts = random.integers(1, 9, len(some)).astype(np.float32)
    changes.biased = changes.biased.copy()
    return changes
