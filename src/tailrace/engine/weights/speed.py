"""Measures the speed of a loaded model's prefill and decode: bare ``decode`` calls, without loop and sampling."""

from __future__ import annotations

import statistics
import time

from tailrace.engine.backends.base import Backend
from tailrace.engine.kv_cache.layout import Layout
from tailrace.models.format_comparison import Speed

#: Tokens in each slot before its decode steps are timed. Layouts, which differ in attention, are compared with more.
_PROMPT_TOKENS = 64
_LAYOUT_PROMPT_TOKENS = 256
#: The least and the largest number of timed steps, and seconds after which the least number is enough.
_MIN_STEPS, _MAX_STEPS = 3, 16
_SECONDS = 0.5
#: Seconds that one prefill may take: the prompt of a slower model is shortened.
_MAX_PREFILL_SECONDS = 4.0
#: Cells of one slot: for a whole prompt and the steps after it.
_CELLS = 1024


def measure(backend: Backend, *, prompt: int = 512) -> Speed:
    """The speed of a prefill of ``prompt`` tokens, and of decoding one sequence and eight (or as many as the slots).

    The results are medians of single steps, so a step that other work delays doesn't count. It takes two seconds for a
    small model, and empties the slots. Raises BackendError, and KVLayoutError without the memory.
    """
    streams = min(backend.layout_policy.slots, 8)
    _ensure_cells(backend, streams)
    text = _prompt(backend, prompt)
    # Two pieces, because the first use of a batch size allocates buffers. The speed of both limits the prompt.
    piece = text[: min(32, backend.max_batch)]
    begun = time.perf_counter()
    for position in (0, len(piece)):
        _prefill(backend, piece, position)
    seconds_per_token = (time.perf_counter() - begun) / (2 * len(piece))
    backend.reset()
    text = text[: max(len(piece), int(_MAX_PREFILL_SECONDS / seconds_per_token))]
    times: list[float] = []
    while len(times) < _MIN_STEPS and sum(times) < _SECONDS:
        begun = time.perf_counter()
        _prefill(backend, text, 0)
        times.append(time.perf_counter() - begun)
        backend.reset()
    return Speed(
        prefill=len(text) / statistics.median(times),
        decode=_decode(backend, 1, _PROMPT_TOKENS),
        decode_batched=_decode(backend, streams, _PROMPT_TOKENS),
        streams=streams,
    )


def measure_layouts(backend: Backend) -> dict[str, Speed]:
    """The decode speed in the ``partitioned`` and the ``shared`` layout; the one that the engine prefers comes first.

    Eight sequences (or as many as the slots) have 256 tokens each. Prefill isn't measured. The slots are empty
    afterwards. Raises BackendError, and KVLayoutError without the memory.
    """
    streams = min(backend.layout_policy.slots, 8)
    found: dict[str, Speed] = {}
    layouts = {"partitioned": Layout(streams, _CELLS // 2), "shared": Layout(0, streams * _CELLS // 2)}
    for name in sorted(layouts, reverse=backend.layout_policy.always_shared):
        layout = layouts[name]
        backend.reset()
        backend.kv_relayout(layout, [])
        one, batched = _decode(backend, 1, _LAYOUT_PROMPT_TOKENS), _decode(backend, streams, _LAYOUT_PROMPT_TOKENS)
        found[name] = Speed(prefill=0.0, decode=one, decode_batched=batched, streams=streams)
    return found


def _ensure_cells(backend: Backend, streams: int) -> None:
    """Change to a layout with cells for a prompt in each slot, where model and limit allow one."""
    layout = backend.layout_policy.choose([min(_CELLS - 128, backend.info.context)] * streams, backend.layout)
    backend.reset()
    if layout is not None and layout != backend.layout:
        backend.kv_relayout(layout, [])


def _prompt(backend: Backend, length: int) -> list[int]:
    """A prompt of ``length`` tokens, or as many as fit into a slot with the steps after it."""
    cells = backend.layout.cells if not backend.layout.shared else backend.layout.cells // 8
    length = max(2, min(length, backend.info.context, cells - _MAX_STEPS))
    tokens = backend.tokenize("The tide comes in twice a day, and a little later every time.")
    return (tokens * (length // len(tokens) + 1))[:length]


def _prefill(backend: Backend, text: list[int], position: int, slot: int = 0) -> None:
    """Compute the prompt in pieces of ``max_batch`` tokens."""
    for begin in range(0, len(text), backend.max_batch):
        part = text[begin : begin + backend.max_batch]
        first = position + begin
        backend.decode(part, list(range(first, first + len(part))), [slot] * len(part), [len(part) - 1])


def _decode(backend: Backend, streams: int, prompt_tokens: int) -> float:
    """Tokens per second of decoding ``streams`` sequences that have ``prompt_tokens`` tokens each."""
    text = _prompt(backend, prompt_tokens)
    for slot in range(streams):
        _prefill(backend, text, 0, slot)
    slots = list(range(streams))
    times: list[float] = []
    while len(times) < _MIN_STEPS or (len(times) < _MAX_STEPS and sum(times) < _SECONDS):
        position = len(text) + len(times)
        begun = time.perf_counter()
        backend.decode([text[position % len(text)]] * streams, [position] * streams, slots, slots)
        times.append(time.perf_counter() - begun)
    backend.reset()
    return streams / statistics.median(times)
