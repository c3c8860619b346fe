"""Ollama's ``/api/pull``: which model a request means, whether it may be pulled, and the stream of its statuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from tailrace.errors import Forbidden, InvalidRequest, ModelError, RequestError
from tailrace.models.catalogue import CATALOGUE
from tailrace.models.pulls.pull import catalogue_model
from tailrace.models.reference import (
    OLLAMA_REGISTRY,
    NameReference,
    OllamaReference,
    PathReference,
    Reference,
    parse_reference,
)
from tailrace.models.store import Store, is_name
from tailrace.server import ndjson
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama import model_names
from tailrace.server.dialects.ollama.pull import Pulls, Status, present
from tailrace.server.dialects.ollama.reply import OllamaError
from tailrace.server.json_response import json_response
from tailrace.server.models.pulled_models import PulledModels
from tailrace.server.streaming import cancelled_on_disconnect


class PullRequest(msgspec.Struct):
    """The body of ``/api/pull``; ``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None
    username: str | None = None
    password: str | None = None


_decoder = msgspec.json.Decoder(PullRequest)
_HEADERS = {name.decode(): value.decode() for name, value in ndjson.HEADERS}


class PullRoute:
    """The handler, and the pulls that run for it."""

    def __init__(self, app: AppState) -> None:
        self._app = app
        self._store = Store()
        self._pulls = Pulls(PulledModels(app))
        app.on_shutdown.append(self._pulls.stop)

    async def pull(self, request: Request) -> Response:
        """Pull a model. One that is served, or in the store, needs no permission."""
        payload = await self._app.read(request, _decoder)
        name = payload.model or payload.name
        if not name:
            raise InvalidRequest("'model' is missing: name a model.", param="model")
        for field, what in (("username", payload.username), ("password", payload.password)):
            if what:
                raise InvalidRequest(f"'{field}': models come without a login; leave it out.", param=field)
        if payload.insecure:
            raise InvalidRequest(
                "'insecure': certificates are always checked; leave it out. The server's own settings may name a "
                "registry without TLS (TAILRACE_OLLAMA_REGISTRY).",
                param="insecure",
            )
        statuses = await self._statuses(name)
        if payload.stream is not False:
            return StreamingResponse(_lines(statuses), headers=_HEADERS)
        following = _Following(statuses)
        async with cancelled_on_disconnect(following, request.receive):
            return json_response(await following.last())

    async def _statuses(self, name: str) -> AsyncIterator[Status]:
        """The statuses of a pull. Raises RequestError before it begins."""
        app = self._app
        if model_names.is_served_model(app, name):
            return present()
        bare = model_names.without_tag(name)
        stored = is_name(bare) and await asyncio.to_thread(self._store.find, bare) is not None
        if stored and (bare not in CATALOGUE or not app.settings.manage_models):
            return present()
        reference = pulled_reference(name)
        if not app.settings.manage_models:
            raise Forbidden("This server doesn't allow fetching models; start it with --manage-models to allow it.")
        return self._pulls.follow(reference, app.settings.keepalive_seconds)


class _Following:
    """A client that waits for the last status alone."""

    def __init__(self, statuses: AsyncIterator[Status]) -> None:
        self._task = asyncio.ensure_future(_last(statuses))

    async def last(self) -> Status:
        """The last status. Raises RequestError, and ClientDisconnect when the client has gone."""
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise ClientDisconnect from None
            raise

    def cancel(self) -> None:
        """See ``Cancellable``."""
        self._task.cancel()


def pulled_reference(name: str) -> Reference:
    """What a client that pulls ``name`` means: a bare name is the catalogue's, or else one of Ollama's library.

    Raises ModelNotFound for what is no reference, and InvalidRequest for a registry that only this server's user may
    name.
    """
    try:
        reference = parse_reference(name, os.environ.get("HF_ENDPOINT"))
    except ModelError as error:
        raise model_names.not_found(name, str(error)) from error
    if isinstance(reference, NameReference) and catalogue_model(reference) is None:
        reference = OllamaReference(model=reference.name, tag=reference.tag or "latest")
    if isinstance(reference, PathReference):
        known = ", ".join(f"'{known}'" for known in CATALOGUE)
        raise model_names.not_found(name, f"a path isn't pulled; name hf.co/ORG/REPO, MODEL:TAG of Ollama, or {known}")
    if isinstance(reference, OllamaReference) and reference.host != OLLAMA_REGISTRY:
        # A client could have the server send requests into its own network.
        raise InvalidRequest(
            "'model': over HTTP models are pulled from Ollama's registry and the Hugging Face hub alone. Pull this one "
            "with: tailrace pull",
            param="model",
        )
    return reference


async def _last(statuses: AsyncIterator[Status]) -> Status:
    last: Status = {}
    async for status in statuses:
        last = status
    return last


async def _lines(statuses: AsyncIterator[Status]) -> AsyncIterator[bytes]:
    try:
        async for status in statuses:
            yield ndjson.line(status)
    except RequestError as error:
        yield ndjson.line(OllamaError(error.message))
