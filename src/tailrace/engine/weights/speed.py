"""How fast a loaded model reads and writes here: bare ``decode`` calls, no loop and no sampling."""

from __future__ import annotations

import statistics
import time

from tailrace.engine.backends.base import Backend
from tailrace.engine.kv_cache.layout import Layout
from tailrace.models.format_comparison import Speed

#: Tokens in each slot before its decode steps are timed; for comparing layouts, whose cost grows with them.
_DEPTH = 64
_LAYOUT_DEPTH = 256
#: Steps that are timed at least and at most, and seconds after which there are enough of them.
_STEPS = (3, 16)
_SECONDS = 0.5
#: Seconds that reading a prompt may take: what is read is shortened for a model that would take longer.
_READING = 4.0
#: Cells of a stream: a whole prompt, and the steps behind it.
_CELLS = 1024


def measure(backend: Backend, *, prompt: int = 512) -> Speed:
    """Tokens a second of reading ``prompt`` tokens in pieces of ``max_batch``, and of decoding one stream and eight (or
    as many as there are slots). Empties the slots.

    Medians of single steps: one that the machine's other work held up doesn't count. Two seconds for a small model.
    Raises BackendError.
    """
    streams = min(backend.layout_policy.slots, 8)
    _make_room(backend, streams)
    text = _text(backend, prompt)
    # Two pieces: the first use of a batch's size makes buffers.
    piece = text[: min(32, backend.max_batch)]
    begun = time.perf_counter()
    for position in (0, len(piece)):
        _read(backend, piece, position)
    pace = (time.perf_counter() - begun) / (2 * len(piece))
    backend.reset()
    text = text[: max(len(piece), int(_READING / pace))]
    times: list[float] = []
    while len(times) < _STEPS[0] and sum(times) < _SECONDS:
        begun = time.perf_counter()
        _read(backend, text, 0)
        times.append(time.perf_counter() - begun)
        backend.reset()
    return Speed(
        prefill=len(text) / statistics.median(times),
        decode=_decode(backend, 1, _DEPTH),
        decode_many=_decode(backend, streams, _DEPTH),
        streams=streams,
    )


def measure_layouts(backend: Backend) -> dict[str, Speed]:
    """Tokens a second of eight streams (or as many as there are slots) behind 256 tokens each, where every slot has
    cells of its own (``streams``) and where all share them (``pool``); what the engine uses stands first. Only the
    decode figures are measured.

    Empties the slots. Raises BackendError.
    """
    streams = min(backend.layout_policy.slots, 8)
    found: dict[str, Speed] = {}
    layouts = {"streams": Layout(streams, _CELLS // 2), "pool": Layout(0, streams * _CELLS // 2)}
    for name in sorted(layouts, reverse=not backend.layout_policy.always_shared):
        layout = layouts[name]
        backend.reset()
        backend.kv_relayout(layout, [])
        one, many = _decode(backend, 1, _LAYOUT_DEPTH), _decode(backend, streams, _LAYOUT_DEPTH)
        found[name] = Speed(prefill=0.0, decode=one, decode_many=many, streams=streams)
    return found


def _make_room(backend: Backend, streams: int) -> None:
    """Cells for a prompt in every slot, where the model and the limit allow more than there are."""
    wanted = backend.layout_policy.choose([min(_CELLS - 128, backend.info.context)] * streams, backend.layout)
    backend.reset()
    if wanted is not None and wanted != backend.layout:
        backend.kv_relayout(wanted, [])


def _text(backend: Backend, length: int) -> list[int]:
    room = backend.layout.cells if not backend.layout.shared else backend.layout.cells // 8
    length = max(2, min(length, backend.info.context, room - _STEPS[1]))
    tokens = backend.tokenize("The tide comes in twice a day, and a little later every time.")
    return (tokens * (length // len(tokens) + 1))[:length]


def _read(backend: Backend, text: list[int], position: int, slot: int = 0) -> None:
    for begin in range(0, len(text), backend.max_batch):
        part = text[begin : begin + backend.max_batch]
        first = position + begin
        backend.decode(part, list(range(first, first + len(part))), [slot] * len(part), [len(part) - 1])


def _decode(backend: Backend, streams: int, depth: int) -> float:
    text = _text(backend, depth)
    for slot in range(streams):
        _read(backend, text, 0, slot)
    slots = list(range(streams))
    times: list[float] = []
    while len(times) < _STEPS[0] or (len(times) < _STEPS[1] and sum(times) < _SECONDS):
        position = len(text) + len(times)
        begun = time.perf_counter()
        backend.decode([text[position % len(text)]] * streams, [position] * streams, slots, slots)
        times.append(time.perf_counter() - begun)
    backend.reset()
    return streams / statistics.median(times)
