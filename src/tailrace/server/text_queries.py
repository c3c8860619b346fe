"""Requests that ask a model's engine about texts: their tokens, embeddings, probabilities or ranks.

It counts the texts in the request's place in the queue and charges the key. ``engine_query`` is one query on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect, Request

from tailrace.errors import EngineDied
from tailrace.prompt_text import PromptText
from tailrace.protocol import EngineQuery, QueryAnswer, Tokenize, Tokenized
from tailrace.server.caller import caller_of, place_of
from tailrace.server.choice_group import estimated_tokens
from tailrace.server.cluster.prompt_probe import is_probe, no_prompt
from tailrace.server.dashboard.running_requests import computes_texts
from tailrace.server.engine_client import EngineClient
from tailrace.server.engine_query import computed_tokens, texts_of
from tailrace.server.engine_wait import wait_for_engine
from tailrace.server.forwarding import report_begun
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.request_limits import RequestLimits
from tailrace.server.request_scope import QUEUE_PLACE
from tailrace.server.served_model import ServedModel
from tailrace.server.streaming import cancelled_on_disconnect

#: Texts of embeddings, or to be tokenised, that count as one request: they are computed together.
_TEXTS_OF_A_REQUEST = 64


class TextQueries:
    """See the module. There is one in the process."""

    def __init__(self, models: ModelDirectory, limits: RequestLimits) -> None:
        self._models = models
        self._limits = limits

    def claim(
        self, request: Request, model: ServedModel, texts: Sequence[PromptText | str | list[int]], param: str
    ) -> None:
        """Count texts of the field ``param``, which the model's engine reads, in the request's place in the queue.
        Raises RequestError: the queue is full, or a text surely doesn't fit.
        """
        for text in texts:
            self._limits.check_prompt(text, param, model)
        claim_tokens(request, model, 1 + len(texts) // _TEXTS_OF_A_REQUEST, texts)

    async def ask(
        self,
        request: Request,
        model: ServedModel,
        make: Callable[[int], EngineQuery],
        answers: int = 1,
        *,
        param: str,
    ) -> list[QueryAnswer]:
        """The answers of the model's engine to what ``make`` makes of an id. Raises RequestError, naming ``param``
        where the engine refuses, and ClientDisconnect when the client has gone.

        A query whose engine dies is asked once more, of the next engine.
        """
        query = make(0)
        self.claim(request, model, texts_of(query), param)
        computes_texts(request.scope)
        engine = self._models.service(model.name).engine
        known = engine.known_prompts
        if not isinstance(query, Tokenize):  # Tokens alone cost little; other answers come from embedding passes.
            if is_probe(request.scope):
                raise no_prompt()
            report_begun(request.scope)
        elif known is not None and (tokens := known.tokens_of(query)) is not None:
            return [Tokenized(0, tokens)]
        try:
            found = await _ask_once(engine, request, make, answers, param)
        except EngineDied:
            await wait_for_engine(engine, request.receive)
            found = await _ask_once(engine, request, make, answers, param)
        if known is not None and isinstance(query, Tokenize):
            (answer,) = found
            assert isinstance(answer, Tokenized), "so is a Tokenize answered"
            known.add(query, answer.tokens)
        return found


def claim_tokens(
    request: Request, model: ServedModel, requests: int, prompts: Sequence[PromptText | str | list[int]]
) -> None:
    """Count the prompts as so many requests in the request's place in the queue. Raises RequestError where it is
    full.
    """
    context = model.info.context
    request.scope[QUEUE_PLACE].claim(requests, sum(estimated_tokens(prompt, context) for prompt in prompts))


async def _ask_once(
    engine: EngineClient, request: Request, make: Callable[[int], EngineQuery], answers: int, param: str
) -> list[QueryAnswer]:
    if (place := place_of(request.scope)) is not None:
        await place.begin(0)
    query = engine.query(make, answers, param=param, caller=caller_of(request.scope).identity)
    try:
        async with cancelled_on_disconnect(query, request.receive):
            found = await query.answers()
    finally:
        query.withdraw()
    if place is not None:
        place.allowance.charge(sum(computed_tokens(answer) for answer in found or ()))
    if found is None:
        raise ClientDisconnect
    return found
