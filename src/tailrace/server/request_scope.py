"""What a request of the engine holds, in its ASGI scope: its place, its turn, its deadlines and its body's memory.

The request's end gives back what no generation has taken over.
"""

from __future__ import annotations

from starlette.types import Scope

from tailrace.server.body_memory import BodyLease
from tailrace.server.models.model_turn import ModelTurn

#: Keys of an ASGI scope: whether the request needs a place in the queue; its place, until a generation has it; its
#: deadlines; and the timeout of its handler.
IS_ADMITTED = "tailrace.is_admitted"
QUEUE_PLACE = "tailrace.queue_place"
DEADLINES = "tailrace.deadlines"
HANDLER_TIMEOUT = "tailrace.handler_timeout"
#: The request's turn of its model, until a generation has it.
MODEL_TURN = "tailrace.model_turn"
#: The key of an ASGI scope for the memory of the request's body.
BODY = "tailrace.body"


def close_turn(scope: Scope) -> None:
    """The request with this scope doesn't need its model any more, unless its generation does."""
    turn: ModelTurn | None = scope.pop(MODEL_TURN, None)
    if turn is not None:
        turn.close()


def release_body(scope: Scope) -> None:
    """The body of the request with this scope isn't needed any more."""
    lease: BodyLease | None = scope.get(BODY)
    if lease is not None:
        lease.release()
