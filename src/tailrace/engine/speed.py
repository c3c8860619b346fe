"""How fast a loaded model reads and writes here: bare ``decode`` calls, no loop and no sampling."""

from __future__ import annotations

import statistics
import time

from tailrace.engine.backend import Backend
from tailrace.models.measures import Speed

#: Tokens in each slot before its decode steps are timed.
_DEPTH = 64
#: Steps that are timed at least and at most, and seconds after which there are enough of them.
_STEPS = (3, 16)
_SECONDS = 0.5


def measure(backend: Backend, *, prompt: int = 512) -> Speed:
    """Tokens a second of reading ``prompt`` tokens (or a batch's worth) and of decoding one stream and one in each slot
    of the present layout.

    Medians of single steps: one that the machine's other work held up doesn't count. About half a second for a small
    model; at least a prompt and eight steps for any. Empties the slots. Raises BackendError.
    """
    tokens = backend.tokenize("The tide comes in twice a day, and a little later every time.")
    length = min(prompt, backend.max_batch, backend.info.context, backend.layout.cells)
    streams = min(backend.policy.slots, backend.layout.streams or backend.policy.slots)
    text = (tokens * (length // len(tokens) + 1))[:length]
    backend.reset()
    times: list[float] = []
    while len(times) < _STEPS[0] and sum(times) < _SECONDS:
        begun = time.perf_counter()
        backend.decode(text, list(range(length)), [0] * length, [length - 1])
        times.append(time.perf_counter() - begun)
        backend.reset()
    return Speed(
        prefill=length / statistics.median(times),
        decode=_decode(backend, 1, tokens),
        decode_many=_decode(backend, streams, tokens),
        streams=streams,
    )


def _decode(backend: Backend, streams: int, tokens: list[int]) -> float:
    depth = min(_DEPTH, backend.info.context // 2)
    text = (tokens * (depth // len(tokens) + 1))[:depth]
    for slot in range(streams):
        for begin in range(0, depth, backend.max_batch):
            part = text[begin : begin + backend.max_batch]
            backend.decode(part, list(range(begin, begin + len(part))), [slot] * len(part), [len(part) - 1])
    slots = list(range(streams))
    times: list[float] = []
    while len(times) < _STEPS[0] or (len(times) < _STEPS[1] and sum(times) < _SECONDS):
        position = depth + len(times)
        begun = time.perf_counter()
        backend.decode([tokens[position % len(tokens)]] * streams, [position] * streams, slots, slots)
        times.append(time.perf_counter() - begun)
    backend.reset()
    return streams / statistics.median(times)
