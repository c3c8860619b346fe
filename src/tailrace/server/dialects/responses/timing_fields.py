"""llama-server's figures in responses, for clients that ask: ``timings_per_token`` and ``return_progress``."""

from __future__ import annotations

from typing import Any

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.generation import Generation
from tailrace.server.tracked_choice import TrackingOptions


def tracking(request: ResponsesRequest) -> TrackingOptions | None:
    """The tracking that the request's progress and timings need; None without them. Raises InvalidRequest."""
    requested = [name for name in ("timings_per_token", "return_progress") if getattr(request, name)]
    if not requested:
        return None
    if request.background:
        raise InvalidRequest(
            f"'{requested[0]}': the figures of a response in the background aren't told.",
            param=requested[0],
            code="unsupported_value",
        )
    streams = bool(request.stream)
    return TrackingOptions(
        progress=streams and bool(request.return_progress), timings=streams and bool(request.timings_per_token)
    )


def with_timings(body: dict[str, Any], request: ResponsesRequest, generation: Generation) -> dict[str, Any]:
    """The body for a client that doesn't stream."""
    return {**body, "timings": generation.tracked[0].timings} if request.timings_per_token else body
