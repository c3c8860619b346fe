"""One line in the log for each request, at its end, and the same figures for traces.

A generation may outlive its request (a response in the background): then the line comes at the generation's end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from tailrace.observe.request_summary import CLIENT_GONE, RequestSummary
from tailrace.server.generation import Generation

#: The key of an ASGI scope for the generation that was started for the request.
STARTED = "tailrace.generation"

#: Routes that machines call every few seconds: lines for debugging.
_QUIET = ("/health", "/metrics", "/stats", "/cluster")
#: Characters of a prompt in the log, where prompts are logged.
_PROMPT_CHARACTERS = 1900

OnRequest = Callable[[RequestSummary], None]


class RequestLog:
    """Takes each request's summary at its end. ``on_request`` gets it too."""

    def __init__(self, *, lines: bool, prompts: bool, on_request: OnRequest | None = None) -> None:
        """``lines``: whether there are lines at all; ``prompts``: whether they have the prompts' text."""
        self._lines = lines
        self._prompts = prompts
        self._on_request = on_request
        self._log = structlog.get_logger()

    def ended(self, summary: RequestSummary, generation: Generation | None) -> None:
        """The request has its response, or has lost its client."""
        if generation is not None:
            summary.generation = generation.figures
            summary.model = generation.model_name
            if self._prompts:
                summary.prompt = generation.prompt_text[:_PROMPT_CHARACTERS]
            generation.at_end(lambda: self._finish(summary))
        else:
            self._finish(summary)

    def _finish(self, summary: RequestSummary) -> None:
        summary.ended_at = time.monotonic()
        if summary.generation is not None and summary.error is None:
            summary.error = summary.generation.error
        if self._lines:
            quiet = summary.route.startswith(_QUIET)
            (self._log.debug if quiet else self._log.info)("request", **line_fields(summary))
        if self._on_request is not None:
            self._on_request(summary)


def line_fields(summary: RequestSummary) -> dict[str, Any]:
    """The fields of the line; those without a value are left out."""
    fields: dict[str, Any] = {
        "method": summary.method,
        # A path that no route has is the client's own text.
        "route": summary.route if summary.route != "other" else summary.path[:200],
        "status": CLIENT_GONE if summary.status is None else summary.status,
        "error": summary.error,
        "client": summary.client,
        "key": summary.key,
        "seconds": round(summary.ended_at - summary.began_at, 4),
    }
    if (generation := summary.generation) is not None:
        first = generation.first_token_at
        speed = generation.tokens_per_second
        fields |= {
            "model": summary.model,
            "prompt_tokens": generation.prompt_tokens,
            "cached": generation.cached_tokens,
            "completion_tokens": generation.completion_tokens,
            "queue": None if generation.queue_seconds is None else round(generation.queue_seconds, 4),
            "ttft": None if first is None else round(first - summary.began_at, 4),
            "tok_s": None if speed is None else round(speed, 1),
            "finish": ",".join(dict.fromkeys(generation.finishes)),
            "prompt": summary.prompt,
        }
    # A generation in the background ends outside of the request's context.
    fields["request_id"] = summary.request_id
    return {name: value for name, value in fields.items() if value is not None}
