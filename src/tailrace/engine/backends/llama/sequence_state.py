"""Adapts a sequence's state, as ``llama_state_seq_get_data`` writes it, to a context with another number of streams.

llama.cpp restores a state only into a context with as many streams as the state's own, though nothing else in it
depends on that. So the number is rewritten here. The format is llama.cpp's (``llama_kv_cache::state_write``):

    magic, sequence: 2 × u32; then for each of the model's caches (two where some layers have a sliding window):
    number of streams: u32; then for each stream the number of cells: u32, and where that isn't 0
        for each cell its position, how many sequences have it (1), what positions of several numbers (M-RoPE) add, and
        which sequence: i32 each
        whether V is transposed: u32; number of layers: u32
        for each layer K's type: i32, a row's bytes: u64, the rows
        for each layer V's the same; or if transposed its type: i32, an element's bytes, elements a cell: 2 × u32, data

A hybrid model's recurrent part comes last, and doesn't depend on the streams. A checkpoint of a hybrid model with
sliding windows is the windows' cache and the recurrent part. A state of another format can't be adapted: its sequence
is computed again.
"""

from __future__ import annotations

import struct

import numpy as np

from tailrace.engine.backends.base import KVState

HEAD_BYTES = 8  #: magic and sequence
#: Bytes of a cell's entry: position, one sequence, and what models with positions of several numbers add.
_ENTRY_BYTES = range(12, 40, 4)
_MAX_LAYERS = 4096


def streams_of(state: KVState) -> int:
    """The number of streams of the context that the state was saved in."""
    return int(_number(state, HEAD_BYTES))


def cells_bytes(state: KVState) -> int:
    """Bytes of the state's first cache. Raises struct.error where its format is unknown."""
    return _cache(state, HEAD_BYTES)[2] - HEAD_BYTES


def with_streams(state: KVState, streams: int, *, recurrent_bytes: int = 0) -> KVState | None:
    """The state for a context with ``streams`` streams; None where its format is unknown.

    ``recurrent_bytes``: the length of the recurrent part at its end.
    """
    if streams_of(state) == streams:
        return state
    parts = adapted_parts(state, streams, recurrent_bytes=recurrent_bytes)
    return None if parts is None else np.concatenate(parts)


def adapted_parts(state: KVState, streams: int, *, recurrent_bytes: int = 0) -> list[KVState] | None:
    """As ``with_streams``, in parts that follow each other. The long ones are views of ``state``."""
    caches_end = state.size - recurrent_bytes
    try:
        parts = [state[:HEAD_BYTES]]
        offset = HEAD_BYTES
        while offset < caches_end:
            begin, end, offset = _cache(state, offset)
            # All cells are in the first stream. llama.cpp puts them into the stream of the sequence that it restores.
            parts += [_numbers(streams), state[begin:end], _numbers(*[0] * (streams - 1))]
    except struct.error:
        return None
    if offset != caches_end:
        return None
    return [*parts, state[caches_end:]]


def kept_rows(state: KVState, length: int) -> bytes | None:
    """For each cell of the state's first cache, in the state's order, whether its position is below ``length``.

    None where the format is unknown.
    """
    begin = HEAD_BYTES + 4
    rows = 0
    for _ in range(streams_of(state)):
        if begin + 4 > state.size:
            return None
        rows, begin = _number(state, begin), begin + 4
        if rows:
            break
    for entry in _ENTRY_BYTES:
        if not rows or begin + rows * entry > state.size:
            return None
        entries = state[begin : begin + rows * entry].reshape(rows, entry)
        positions = np.ascontiguousarray(entries[:, :4]).view(np.int32)[:, 0]
        if np.array_equal(np.sort(positions), np.arange(rows)):
            return (positions < length).astype(np.uint8).tobytes()
    return None


def _cache(state: KVState, offset: int) -> tuple[int, int, int]:
    """Begin and end of the cells (with their number) of the cache at ``offset``, and the end of the cache."""
    streams = _number(state, offset)
    offset += 4
    begin = end = offset
    for _ in range(streams):
        if not _number(state, offset):
            offset += 4
            continue
        begin = offset
        end = offset = _cells(state, offset)
    return (begin, end, offset) if end > begin else (begin, begin + 4, offset)


def _cells(state: KVState, offset: int) -> int:
    """The end of the cells at ``offset``."""
    for entry in _ENTRY_BYTES:
        try:
            return _cells_of(state, offset, entry)
        except struct.error:
            pass  # Entries of this length don't lead to a list of layers.
    raise struct.error("these are no cells")


def _cells_of(state: KVState, offset: int, entry: int) -> int:
    """The end of the cells at ``offset``, with so many bytes for a cell's entry."""
    cells = _number(state, offset)
    offset += 4 + entry * cells
    transposed, layers = struct.unpack_from("<II", state.data, offset)
    if transposed > 1 or layers > _MAX_LAYERS:
        raise struct.error("this is no list of layers")
    offset += 8
    for _ in range(layers if transposed else 2 * layers):
        _, row = struct.unpack_from("<iQ", state.data, offset)
        offset += 12 + row * cells
    for _ in range(layers if transposed else 0):
        _, element, width = struct.unpack_from("<iII", state.data, offset)
        offset += 12 + element * width * cells
    if offset > state.size:
        raise struct.error("rows go beyond the state")
    return offset


def _number(state: KVState, offset: int) -> int:
    return int(struct.unpack_from("<I", state.data, offset)[0])


def _numbers(*numbers: int) -> KVState:
    return np.frombuffer(struct.pack(f"<{len(numbers)}I", *numbers), np.uint8)
