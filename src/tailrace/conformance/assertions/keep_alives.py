"""Assertions on the pauses of a stream, and on the keep-alives within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tailrace.conformance.dialects import find
from tailrace.conformance.events import RecordedStream, StreamEvent
from tailrace.conformance.outcome import NotObserved, require


def expect_no_long_silence(
    streams: Sequence[RecordedStream], silence: float, is_sign: Callable[[StreamEvent], bool] | None = None
) -> str:
    """No stream is silent for longer than ``silence`` seconds without a keep-alive.

    ``is_sign`` recognises the dialect's keep-alives. Raises NotObserved when no wait was so long.
    """
    is_sign = is_sign or is_keep_alive
    longest = 0.0
    signs = 0
    for stream in streams:
        last_content = at = stream.reply.headers_at
        since = 0  # keep-alives since the last content
        for event in [*stream.events, None]:
            now = event.received_at if event is not None else stream.reply.ended_at or at
            # With a margin of a half: a keep-alive that is sent in time may arrive later.
            require(now - at <= silence * 1.5, f"silent for {now - at:.1f} s ({stream.label})")
            at = now
            if event is not None and is_sign(event):
                since += 1
                continue
            longest = max(longest, now - last_content)
            # Only an empty chunk within a long silence counts as a keep-alive.
            signs += since if now - last_content > silence else 0
            last_content, since = now, 0
    if not signs:
        raise NotObserved(f"nothing took over {silence:g} s; the longest wait was {longest:.1f} s (--long-prompt)")
    return f"{signs} signs of life in waits of up to {longest:.1f} s"


def is_keep_alive(event: StreamEvent) -> bool:
    """Whether the event is only a keep-alive: a comment, a ping, or a chunk with empty content and no role."""
    value = event.object
    if event.data is None:
        return event.raw.startswith(b":")
    if value is None:
        return False
    if value.get("type") == "ping":
        return True
    delta = find(value, "choices", 0, "delta")
    return delta == {"content": ""} and find(value, "choices", 0, "finish_reason") is None
