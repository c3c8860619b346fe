"""A key's limits as headers of a response, under the names that each dialect's clients read.

OpenAI's are ``x-ratelimit-*`` (platform.openai.com/docs/guides/rate-limits), with durations. Anthropic's are
``anthropic-ratelimit-*`` (docs.anthropic.com/en/api/rate-limits), with times. ``requests`` are those that run at the
same time, ``tokens`` those of the limit that is reached first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

from tailrace.server.keys.allowance import Allowance, Limit
from tailrace.server.keys.duration import short_duration

LimitStyle = Literal["openai", "anthropic"]

_Headers = list[tuple[bytes, bytes]]


def limit_headers(allowance: Allowance, style: LimitStyle) -> _Headers:
    """The headers; none for a limit that the key doesn't have."""
    make: Callable[[bytes, Limit], _Headers] = _anthropic if style == "anthropic" else _openai
    headers: _Headers = []
    for kind, limit in ((b"requests", allowance.requests()), (b"tokens", allowance.tokens())):
        if limit is not None:
            headers += make(kind, limit)
    return headers


def _openai(kind: bytes, limit: Limit) -> _Headers:
    return [
        (b"x-ratelimit-limit-" + kind, b"%d" % limit.limit),
        (b"x-ratelimit-remaining-" + kind, b"%d" % limit.remaining),
        (b"x-ratelimit-reset-" + kind, short_duration(limit.reset).encode()),
    ]


def _anthropic(kind: bytes, limit: Limit) -> _Headers:
    reset = (datetime.now(UTC) + timedelta(seconds=limit.reset)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        (b"anthropic-ratelimit-" + kind + b"-limit", b"%d" % limit.limit),
        (b"anthropic-ratelimit-" + kind + b"-remaining", b"%d" % limit.remaining),
        (b"anthropic-ratelimit-" + kind + b"-reset", reset.encode()),
    ]
