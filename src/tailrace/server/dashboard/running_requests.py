"""The requests of the engine that run or wait now: for pages that show them, and to end one of them.

A request is registered when its handler begins, and leaves at its end: that of its response, or that of its generation
where this outlives the response. Nothing is done for a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import count
from typing import Literal

import msgspec
from starlette.types import Scope

from tailrace.errors import NotFound, RequestCancelled
from tailrace.server.caller import Caller, caller_of
from tailrace.server.generation import Generation
from tailrace.server.models.model_turn import ModelTurn
from tailrace.server.open_streams import client_name
from tailrace.server.request_id import request_id
from tailrace.server.request_log import STARTED
from tailrace.server.request_scope import MODEL_TURN

#: The key of an ASGI scope for the request's ``RunningRequest``.
_SCOPE_KEY = "tailrace.running_request"

#: Seconds for which a page counts as open after it has asked.
_WATCHED_SECONDS = 5.0
#: Requests that one answer has at most.
_MAX_ROWS = 200

#: ``reading``: its body comes, and is checked. ``loading``: it waits for its model. ``preparing``: its prompt is
#: rendered and tokenised. ``queued``: it waits for the engine. ``prompt``: the engine computes its prompt.
#: ``reply``: it has tokens. ``computing``: the engine works on texts that it doesn't continue, as for embeddings.
State = Literal["reading", "loading", "preparing", "queued", "prompt", "reply", "computing"]


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request, without any of its text. Counts are of all its prompts and replies together."""

    number: int  #: of this server's run; ``DELETE /stats/requests/{number}`` cancels it
    request_id: str
    own: bool  #: whether the reader has sent it
    client: str  #: its address, and its key's name where it has one
    dialect: str
    route: str
    model: str | None
    state: State
    age: float  #: seconds
    prompt_tokens: int | None = None  #: None: not counted yet
    prompt_computed: int = 0  #: of them, those that are computed or were cached
    cached_tokens: int = 0
    reply_tokens: int = 0
    max_tokens: int | None = None
    choices: int = 1
    first_token: float | None = None  #: seconds from the request's beginning to its first token
    rate: float | None = None  #: tokens a second since the first one


class RunningRequest:
    """One of them."""

    __slots__ = (
        "_cancelled",
        "_task",
        "began_at",
        "caller",
        "computes_texts",
        "dialect",
        "number",
        "request_id",
        "route",
        "scope",
    )

    def __init__(self, number: int, scope: Scope, route: str, dialect: str) -> None:
        """Made in the task that handles the request."""
        self.number = number
        self.scope = scope
        self.route = route
        self.dialect = dialect
        self.caller = caller_of(scope)
        self.request_id = request_id(scope)
        self.began_at = time.monotonic()
        self.computes_texts = False  #: the engine works on its texts, without a generation
        self._task = asyncio.current_task()
        self._cancelled = False

    @property
    def generation(self) -> Generation | None:
        """Its generation, once the engine has accepted it."""
        generation: Generation | None = self.scope.get(STARTED)
        return generation

    def cancel(self) -> None:
        """End it with RequestCancelled."""
        if (generation := self.generation) is not None:
            generation.fail(_cancelled())
        elif self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def raise_cancelled(self) -> None:
        """Raise RequestCancelled where the handler's task was cancelled by ``cancel``. Called in that task."""
        if self._cancelled and self._task is not None:
            self._task.uncancel()
            raise _cancelled() from None

    def handled(self) -> None:
        """Its handler has returned: from now on only a generation can be cancelled."""
        self._task = None

    def row(self, *, own: bool) -> RequestRow:
        """The request as it is now."""
        now, generation = time.monotonic(), self.generation
        row = RequestRow(
            number=self.number,
            request_id=self.request_id,
            own=own,
            client=client_name(self.caller),
            dialect=self.dialect,
            route=self.route,
            model=self._model,
            state=self._state,
            age=now - self.began_at,
        )
        if generation is None:
            return row
        count, figures, reply = generation.count, generation.figures, generation.reply_tokens
        first = figures.first_token_at
        later = 0.0 if first is None else now - first
        return msgspec.structs.replace(
            row,
            prompt_tokens=count.prompt,
            prompt_computed=count.prompt
            if first is not None
            else max(count.computed_prompt, generation.prompt_computed),
            cached_tokens=count.cached,
            reply_tokens=reply,
            max_tokens=figures.max_tokens,
            choices=figures.choices,
            first_token=None if first is None else first - self.began_at,
            rate=(reply - 1) / later if reply > 1 and later > 0 else None,
        )

    @property
    def _model(self) -> str | None:
        if (generation := self.generation) is not None:
            return generation.model_name
        turn: ModelTurn | None = self.scope.get(MODEL_TURN)
        return None if turn is None else turn.service.name

    @property
    def _state(self) -> State:
        if (generation := self.generation) is not None:
            if generation.has_tokens:
                return "reply"
            # The engine reports the prompt's progress where a page was open when the request came.
            return "prompt" if generation.has_begun or generation.is_alone else "queued"
        if self.computes_texts:
            return "computing"
        turn: ModelTurn | None = self.scope.get(MODEL_TURN)
        if turn is None:
            return "reading"
        return "preparing" if turn.begun and turn.service.engine.is_connected else "loading"


class RunningRequests:
    """All of them, by number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._requests: dict[int, RunningRequest] = {}
        self._looked_at = -_WATCHED_SECONDS

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def watched(self) -> bool:
        """Whether a page has looked a moment ago, so that prompts' progress is worth a message."""
        return self._clock() - self._looked_at < _WATCHED_SECONDS

    def enter(self, scope: Scope, route: str, dialect: str) -> RunningRequest:
        """The request's handler begins, in this task."""
        request = RunningRequest(next(self._numbers), scope, route, dialect)
        self._requests[request.number] = scope[_SCOPE_KEY] = request
        return request

    def leave(self, scope: Scope) -> None:
        """The request's response has ended. Harmless for a request that hasn't entered."""
        request: RunningRequest | None = scope.pop(_SCOPE_KEY, None)
        if request is None:
            return
        number = request.number
        if (generation := request.generation) is not None:
            generation.at_end(lambda: self._forget(number))
        else:
            self._forget(number)

    def rows(self, reader: Caller, *, operator: bool) -> list[RequestRow]:
        """The requests that the reader may see, oldest first: its own, or all."""
        self._looked_at = self._clock()
        seen: list[RequestRow] = []
        for request in self._requests.values():
            own = request.caller.identity == reader.identity
            if (own or operator) and len(seen) < _MAX_ROWS:
                seen.append(request.row(own=own))
        return seen

    def cancel(self, number: int, reader: Caller, *, operator: bool) -> None:
        """Cancel a request that the reader may see. Raises NotFound."""
        request = self._requests.get(number)
        if request is None or not (operator or request.caller.identity == reader.identity):
            raise NotFound(f"No request {number} runs or waits, or it belongs to another client.")
        request.cancel()

    def _forget(self, number: int) -> None:
        self._requests.pop(number, None)


def computes_texts(scope: Scope) -> None:
    """The engine works on the request's texts, without a generation."""
    request: RunningRequest | None = scope.get(_SCOPE_KEY)
    if request is not None:
        request.computes_texts = True


def _cancelled() -> RequestCancelled:
    return RequestCancelled("The request was cancelled on the server's page, by its operator or with the same key.")
