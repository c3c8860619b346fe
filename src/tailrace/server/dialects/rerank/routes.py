"""The routes: ``/rerank`` with its other names, and Cohere's ``/v2/rerank``."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from tailrace.errors import InvalidRequest
from tailrace.protocol import Ranked
from tailrace.server.app_state import AppState
from tailrace.server.dialects.rerank import reply
from tailrace.server.dialects.rerank.request import RerankRequest, decoder, documents_field, rank_query, texts_of
from tailrace.server.dialects.rerank.served_rerankers import ServedRerankers
from tailrace.server.endpoint import GENERATION_ERRORS, Endpoint
from tailrace.server.json_response import json_response
from tailrace.server.served_model import ServedModel

#: TEI's reply is a list.
_REPLY: Any = dict[str, Any] | list[dict[str, Any]]


def routes(app: AppState) -> list[Endpoint]:
    """The routes, answered by ``server``."""
    rerank = _Rerank(app)

    def endpoint(path: str, version: Literal["1", "2"], *, shown: str | None = None, hidden: bool = False) -> Endpoint:
        return Endpoint(
            "POST",
            path,
            partial(rerank.rerank, version=version),
            "Documents in the order in which they answer a query",
            body=RerankRequest,
            statuses=GENERATION_ERRORS,
            replies={200: _REPLY},
            shown=shown,
            hidden=hidden,
        )

    return [
        endpoint("/rerank", "1"),
        endpoint("/reranking", "1", hidden=True),
        endpoint("/v2/rerank", "2", shown="/v2/rerank"),
    ]


class _Rerank:
    def __init__(self, app: AppState) -> None:
        self._app = app
        self._rerankers = ServedRerankers(app.models, app.abilities)

    async def rerank(self, request: Request, version: Literal["1", "2"]) -> Response:
        """Cohere's second version cuts long documents by default and returns none; the others do the opposite."""
        app = self._app
        payload = await app.read(request, decoder)
        texts = texts_of(payload)
        service = await self._rerankers.find(payload.model)
        model = await app.loaded(request, app.models.service(service.name))
        _check_scores(payload, model)
        found = await app.queries.ask(
            request,
            model,
            lambda identity: rank_query(identity, payload, texts, model, cuts=version == "2"),
            len(texts),
            param=documents_field(payload),
        )
        answers = [answer for answer in found if isinstance(answer, Ranked)]
        returns = payload.return_documents if payload.return_documents is not None else version == "1"

        def response() -> Response:
            rows = reply.results(payload, answers, model.info.rank_score, returns_documents=returns)
            return json_response(rows if payload.is_tei else reply.body(rows, answers, model.name, version))

        return await app.run_large(response, request.state.size)


def _check_scores(payload: RerankRequest, model: ServedModel) -> None:
    """Raise InvalidRequest where the model has no scores of the requested kind."""
    if payload.raw and model.info.rank_score == "probability":
        fields = {"raw_scores": payload.raw_scores, "activation": payload.activation is False}
        field = next((name for name, asked in fields.items() if asked), "use_activation")
        raise InvalidRequest(
            f"'{field}': this model's scores are probabilities; it has no others.",
            param=field,
            code="unsupported_value",
        )
