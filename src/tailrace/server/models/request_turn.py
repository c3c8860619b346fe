"""A request takes its turn of a model, and waits for it in the queue. It knows nothing of what the request wants."""

from __future__ import annotations

from starlette.requests import Request

from tailrace.server.admission import QueuePlace
from tailrace.server.caller import caller_of
from tailrace.server.engine_wait import while_connected
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.model_turn import ModelGate, ModelTurn
from tailrace.server.request_scope import MODEL_TURN, QUEUE_PLACE, close_turn
from tailrace.server.waiting_stream import waiting_stream


async def take_turn(request: Request, gate: ModelGate, service: ModelService) -> None:
    """Return when the request has its turn of the model; another model's turn ends. The request has it until its end,
    or that of its generation. Raises RequestError, and ClientDisconnect when the client has gone.
    """
    scope = request.scope
    turn: ModelTurn | None = scope.get(MODEL_TURN)
    if turn is not None and turn.service is service:
        return
    close_turn(scope)
    turn = scope[MODEL_TURN] = ModelTurn(gate, service, caller_of(scope).identity)
    if not turn.try_begin():
        await _wait(request, turn)


async def _wait(request: Request, turn: ModelTurn) -> None:
    place: QueuePlace | None = request.scope.get(QUEUE_PLACE)
    if place is not None:
        place.park()
    if (waiting := waiting_stream(request.scope)) is not None:
        waiting.begin()
    await while_connected(turn.begin(), request.receive)
    if waiting is not None:
        await waiting.has_waited()
    if place is not None:
        place.unpark()
