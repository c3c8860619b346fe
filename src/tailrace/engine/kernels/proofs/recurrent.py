"""The operations of recurrent layers, by one thread and by two, against their formulas in NumPy."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tailrace.engine.kernels.proofs.stand_in import stand_in_pool
from tailrace.engine.kernels.proofs.tensors import compute, id_tensor, set_sources, tensor_of
from tailrace.engine.native_libs.ggml_layout import GgmlStruct

Numbers = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int32]

#: Of the largest result.
_TOLERANCE = 2e-6

#: Size, heads of queries and keys, heads, tokens, sequences, snapshots, and whether each number of a key has a gate.
_DELTA_NETS = (
    (16, 1, 2, 3, 2, 1, False),
    (32, 2, 4, 19, 1, 1, False),
    (64, 3, 3, 40, 2, 4, True),
    (128, 2, 4, 1, 3, 1, False),
    (128, 1, 1, 17, 1, 3, True),
    (256, 1, 2, 2, 1, 5, False),
)
#: Size, channels, heads, groups, tokens, sequences, snapshots; Mamba's have one channel.
_SCANS = (
    (16, 4, 3, 1, 5, 2, 1),
    (48, 8, 4, 2, 33, 1, 4),
    (128, 64, 2, 1, 1, 3, 1),
    (256, 12, 2, 2, 18, 2, 2),
    (16, 1, 32, 1, 35, 2, 1),
    (64, 1, 32, 2, 1, 3, 1),
)
#: Taps, channels, tokens, sequences.
_CONVOLUTIONS = ((4, 32, 1, 3), (4, 48, 37, 2), (3, 16, 16, 1), (3, 32, 1, 2), (5, 16, 7, 1))


def wrong_recurrent(library: ctypes.CDLL) -> list[str]:
    """The operations of recurrent layers that ``library`` computes wrongly."""
    random = np.random.default_rng(17)
    with stand_in_pool(library):
        right = {
            "gated delta-nets": all(_delta_net_agrees(library, random, *shape) for shape in _DELTA_NETS),
            "state-space scans": all(_scan_agrees(library, random, *shape) for shape in _SCANS),
            "row factors": _factors_agree(library, random),
            "short convolutions": all(_convolution_agrees(library, random, *shape) for shape in _CONVOLUTIONS),
        }
    return [name for name, is_right in right.items() if not is_right]


def _close(found: Numbers, expected: Numbers) -> bool:
    return bool(np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max())


def _floats(random: np.random.Generator, *shape: int) -> Numbers:
    return random.standard_normal(shape).astype(np.float32)


def _tensor(array: Numbers) -> GgmlStruct:
    """A tensor of four dimensions."""
    return tensor_of(array[(None,) * (4 - array.ndim)])


# ---- Gated delta-nets ------------------------------------------------------------------------------------------------


def _delta_net_agrees(
    library: ctypes.CDLL,
    random: np.random.Generator,
    size: int,
    key_heads: int,
    heads: int,
    tokens: int,
    sequences: int,
    snapshots: int,
    gates: bool,
) -> bool:
    inputs = delta_net_inputs(random, size, key_heads, heads, tokens, sequences, gates)
    expected = delta_net(*inputs, snapshots)
    return all(
        _close(found, right)
        for threads in (1, 2)
        for found, right in zip(delta_net_by(library, *inputs, snapshots, threads), expected, strict=True)
    )


def delta_net_inputs(
    random: np.random.Generator, size: int, key_heads: int, heads: int, tokens: int, sequences: int, gates: bool
) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers, Numbers]:
    """Queries, keys, values, gates, betas and states of random numbers, as a model has them."""
    queries, keys = (_floats(random, sequences, tokens, key_heads, size) for _ in range(2))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    values = _floats(random, sequences, tokens, heads, size)
    gate = -np.abs(_floats(random, sequences, tokens, heads, size if gates else 1))
    betas = random.random((sequences, tokens, heads, 1), np.float32)
    return queries, keys, values, gate, betas, _floats(random, sequences, heads, size, size)


def delta_net(
    queries: Numbers, keys: Numbers, values: Numbers, gates: Numbers, betas: Numbers, states: Numbers, snapshots: int
) -> tuple[Numbers, Numbers]:
    """The formula: results (sequence, token, head, number), and states (snapshot, sequence, head, row, number), the
    last one first.
    """
    heads, tokens, size = values.shape[2], values.shape[1], values.shape[3]
    repeat = heads // queries.shape[2]
    # Head h has the keys of head h modulo their number.
    queries, keys = (np.tile(part.astype(np.float64), (1, 1, repeat, 1)) for part in (queries, keys))
    state = states.astype(np.float64)
    results, after = np.zeros(values.shape), []
    for token in range(tokens):
        state = state * np.exp(gates[:, token].astype(np.float64))[:, :, None, :]
        key = keys[:, token, :, None, :]
        delta = (values[:, token] - (state * key).sum(-1)) * betas[:, token]
        state = state + delta[..., None] * key
        results[:, token] = (state * queries[:, token, :, None, :]).sum(-1) / np.sqrt(size)
        after.append(state)
    return results, np.stack(after[::-1][:snapshots])


def delta_net_by(
    library: ctypes.CDLL,
    queries: Numbers,
    keys: Numbers,
    values: Numbers,
    gates: Numbers,
    betas: Numbers,
    states: Numbers,
    snapshots: int,
    threads: int = 1,
) -> tuple[Numbers, Numbers]:
    """The same by ``library``."""
    numbers = values.size
    found = np.full(numbers + snapshots * states.size, np.nan, np.float32)
    result = _tensor(found.reshape(-1, values.shape[2] * values.shape[3]))
    sources = [_tensor(each) for each in (queries, keys, values, gates, betas, states)]
    set_sources(result, *sources)
    result.set("op_params", snapshots, 0)
    compute(library.ggml_compute_forward_gated_delta_net, result, threads)
    stored = found[numbers:].reshape(snapshots, *states.shape)
    return found[:numbers].reshape(values.shape), stored[: values.shape[1]]


# ---- State-space scans -----------------------------------------------------------------------------------------------


def _scan_agrees(
    library: ctypes.CDLL,
    random: np.random.Generator,
    size: int,
    channels: int,
    heads: int,
    groups: int,
    tokens: int,
    sequences: int,
    snapshots: int,
) -> bool:
    inputs = scan_inputs(random, size, channels, heads, groups, tokens, sequences)
    expected = scan(*inputs, snapshots)
    return all(
        _close(found, right)
        for threads in (1, 2)
        for found, right in zip(scan_by(library, *inputs, snapshots, threads), expected, strict=True)
    )


def scan_inputs(
    random: np.random.Generator, size: int, channels: int, heads: int, groups: int, tokens: int, sequences: int
) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers, Numbers, Ids]:
    """States, x, steps, A, B, C and the states' rows of the sequences; a head of one channel is Mamba's."""
    states = _floats(random, sequences + 2, heads, channels, size)
    x, steps = _floats(random, sequences, tokens, heads, channels), _floats(random, sequences, tokens, heads) * 3
    steps[0, 0, 0] = 25  # The softplus of a large number is the number.
    decays = -np.abs(_floats(random, heads, size if channels == 1 else 1))
    b, c = (_floats(random, sequences, tokens, groups, size) for _ in range(2))
    return states, x, steps, decays, b, c, random.permutation(sequences + 2)[:sequences].astype(np.int32)


def scan(
    states: Numbers, x: Numbers, steps: Numbers, decays: Numbers, b: Numbers, c: Numbers, ids: Ids, snapshots: int
) -> tuple[Numbers, Numbers]:
    """The formula: results (sequence, token, head, channel), and states (snapshot, sequence, head, channel, number),
    the last one first.
    """
    heads, groups, tokens = x.shape[2], b.shape[2], x.shape[1]
    state = states.astype(np.float64)[ids]
    b, c = (np.repeat(part.astype(np.float64), heads // groups, axis=2) for part in (b, c))
    results, after = np.zeros(x.shape), []
    for token in range(tokens):
        step = np.log1p(np.exp(steps[:, token].astype(np.float64)))[..., None]
        state = state * np.exp(step * decays)[:, :, None, :]
        state = state + (x[:, token] * step)[..., None] * b[:, token, :, None, :]
        results[:, token] = (state * c[:, token, :, None, :]).sum(-1)
        after.append(state)
    return results, np.stack(after[::-1][:snapshots])


def scan_by(
    library: ctypes.CDLL,
    states: Numbers,
    x: Numbers,
    steps: Numbers,
    decays: Numbers,
    b: Numbers,
    c: Numbers,
    ids: Ids,
    snapshots: int,
    threads: int = 1,
) -> tuple[Numbers, Numbers]:
    """The same by ``library``."""
    state_shape = (x.shape[0], *states.shape[1:])
    found = np.full(x.size + snapshots * int(np.prod(state_shape)), np.nan, np.float32)
    result = _tensor(found)
    sources = [*(_tensor(each) for each in (states, x, steps, decays, b, c)), id_tensor(ids[None])]
    set_sources(result, *sources)
    result.set("op_params", snapshots, 0)
    compute(library.ggml_compute_forward_ssm_scan, result, threads)
    stored = found[x.size :].reshape(snapshots, *state_shape)
    return found[: x.size].reshape(x.shape), stored[: x.shape[1]]


# ---- Short convolutions ----------------------------------------------------------------------------------------------


def _convolution_agrees(
    library: ctypes.CDLL, random: np.random.Generator, taps: int, channels: int, tokens: int, sequences: int
) -> bool:
    before = _floats(random, sequences, channels, taps - 1)
    after = _floats(random, sequences, tokens, channels)
    filters = _floats(random, channels, taps)
    joined = np.concatenate((before, after.swapaxes(1, 2)), axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(joined, taps, axis=-1).astype(np.float64)
    expected = (windows * filters[:, None, :]).sum(-1).swapaxes(1, 2)
    return all(
        bool((concat_by(library, before, after, threads) == joined).all())
        and _close(convolution_by(library, joined, filters, threads), expected)
        for threads in (1, 2)
    )


def concat_by(library: ctypes.CDLL, before: Numbers, after: Numbers, threads: int = 1) -> Numbers:
    """Inputs (sequence, channel, token) before those of the new tokens (sequence, token, channel), by ``library``."""
    sequences, tokens, channels = after.shape
    found = np.full((sequences, channels, before.shape[-1] + tokens), np.nan, np.float32)
    result = _tensor(found)
    sources = [_tensor(before), _tensor(after.swapaxes(1, 2))]
    set_sources(result, *sources)
    result.set("op_params", 0, 0)  # joined in the first dimension
    compute(library.ggml_compute_forward_concat, result, threads)
    return found


def convolution_by(library: ctypes.CDLL, joined: Numbers, filters: Numbers, threads: int = 1) -> Numbers:
    """The convolution of (sequence, channel, token) by ``library``: (sequence, token, channel)."""
    tokens = joined.shape[-1] - filters.shape[-1] + 1
    found = np.full((joined.shape[0], tokens, joined.shape[1]), np.nan, np.float32)
    result = _tensor(found)
    sources = [_tensor(joined), _tensor(filters)]
    set_sources(result, *sources)
    compute(library.ggml_compute_forward_ssm_conv, result, threads)
    return found


# ---- Row factors -----------------------------------------------------------------------------------------------------


def _factors_agree(library: ctypes.CDLL, random: np.random.Generator) -> bool:
    rows, factors = _floats(random, 2, 3, 8, 19), _floats(random, 1, 1, 8, 1)
    for threads in (1, 2):
        found = np.full(rows.shape, np.nan, np.float32)
        result = _tensor(found)
        sources = [_tensor(rows), _tensor(factors)]
        set_sources(result, *sources)
        compute(library.ggml_compute_forward_mul, result, threads)
        if not (found == rows * factors).all():
            return False
    return True


def recurrent_counts(library: ctypes.CDLL) -> dict[str, tuple[int, int]]:
    """By operation: how many ``library`` has computed, and how many it has delegated to llama.cpp."""
    return dict(_counts(library))


def _counts(library: ctypes.CDLL) -> Iterator[tuple[str, tuple[int, int]]]:
    read = library.tailrace_kernels_recurrent_counts
    read.restype = ctypes.c_char_p
    own, upstream = ctypes.c_long(), ctypes.c_long()
    for index in itertools.count():
        name: bytes | None = read(index, ctypes.byref(own), ctypes.byref(upstream))
        if name is None:
            return
        yield name.decode(), (own.value, upstream.value)
