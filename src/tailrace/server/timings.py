"""llama-server's figures of one reply, from the engine's clock and this process's monotonic one."""

from __future__ import annotations

import msgspec


class Timings(msgspec.Struct, frozen=True):
    """llama-server's figures, in milliseconds and tokens. The first token costs no step of its own."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


def make_timings(*, cached: int, prompt: int, prompt_seconds: float, generated: int, seconds: float) -> Timings:
    """The timings of a reply. ``cached`` and ``prompt``: prompt tokens from the cache, and computed ones.
    ``generated``: the reply's tokens. ``seconds``: from the first token to the last.
    """
    steps = max(0, generated - 1)
    prompt_ms, predicted_ms = prompt_seconds * 1000, seconds * 1000
    return Timings(
        cache_n=cached,
        prompt_n=prompt,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / prompt if prompt else 0.0,
        prompt_per_second=1000 / prompt_ms * prompt if prompt_ms else 0.0,
        predicted_n=generated,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / steps if steps else 0.0,
        predicted_per_second=1000 / predicted_ms * steps if predicted_ms else 0.0,
    )
