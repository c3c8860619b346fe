"""Ollama's routes about models rather than replies: lists, descriptions, and the store behind them.

Files are read and written on threads beside the event loop. What changes the store asks for ``manage_models``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tailrace.errors import FetchFailed, Forbidden, InvalidRequest, ModelError, NotSupported
from tailrace.models.derived_models import DerivedModel
from tailrace.models.store import Store, is_name
from tailrace.server import ndjson
from tailrace.server.app_state import AppState
from tailrace.server.dialects.ollama import names
from tailrace.server.dialects.ollama.create import CopyRequest, CreateRequest, entry, written_out
from tailrace.server.dialects.ollama.model_list import Shelf, description
from tailrace.server.dialects.ollama.pull import Fetches, Status
from tailrace.server.dialects.ollama.reply import OllamaError, now
from tailrace.server.json_body import decode
from tailrace.server.json_response import json_response

#: The version of Ollama's API that is spoken: clients compare it, and some refuse to talk to one that is too old.
API_VERSION = "0.12.11"
#: Ollama's way to say that a model isn't unloaded: so far ahead that nobody waits for it.
_STAYS = timedelta(days=36_500)


class ShowRequest(msgspec.Struct):
    """The body of ``/api/show``; ``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


class PullRequest(msgspec.Struct):
    """The body of ``/api/pull``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    insecure: bool | None = None
    username: str | None = None
    password: str | None = None


class DeleteRequest(msgspec.Struct):
    """The body of ``/api/delete``."""

    model: str | None = None
    name: str | None = None


_show = msgspec.json.Decoder(ShowRequest)
_pull = msgspec.json.Decoder(PullRequest)
_delete = msgspec.json.Decoder(DeleteRequest)
_create = msgspec.json.Decoder(CreateRequest)
_copy = msgspec.json.Decoder(CopyRequest)


class Management:
    """The handlers."""

    def __init__(self, app: AppState) -> None:
        self._app = app
        self._store = Store()
        self._shelf = Shelf(app, self._store)
        self._fetches = Fetches(self._store)
        app.on_shutdown.append(self._fetches.stop)

    async def version(self, request: Request) -> Response:
        """The API's version, alone: ollama4j refuses an object with another key."""
        return json_response({"version": API_VERSION})

    async def tags(self, request: Request) -> Response:
        """Answers whatever the engine is doing."""
        models = await asyncio.to_thread(self._shelf.models, self._info)
        return json_response({"models": [model.row for model in models]})

    async def running(self, request: Request) -> Response:
        """The served model, once an engine has loaded it."""
        app = self._app
        if app.engine.model is None or app.engine.state == "loading":
            return json_response({"models": []})
        info = app.engine.model.info
        model = await asyncio.to_thread(self._shelf.find, None, info)
        row = {name: value for name, value in model.row.items() if name != "modified_at"}
        # How much of it lies on a GPU is known to the engine alone.
        told = {"expires_at": now() + _STAYS, "size_vram": 0, "context_length": info.context}
        return json_response({"models": [{**row, **told}]})

    async def show(self, request: Request) -> Response:
        """What a model's file says of it."""
        asked = decode(await self._app.read_body(request), _show)
        name = _name(asked.model, asked.name)
        for field, what in (("system", asked.system), ("template", asked.template), ("options", asked.options)):
            if what:
                raise InvalidRequest(f"'{field}': models are shown as they are; leave it out.", param=field)
        if asked.verbose:
            raise InvalidRequest("'verbose': the vocabulary's arrays aren't told; leave it out.", param="verbose")
        info = self._info
        model = await asyncio.to_thread(self._shelf.find, name, info)
        served = names.tagged(self._app.model_name)
        shows_served = served in (model.name, model.parent)
        return json_response(description(model, info if shows_served else None))

    async def pull(self, request: Request) -> Response:
        """Fetch a model of the catalogue. What is there already needs no permission."""
        asked = decode(await self._app.read_body(request), _pull)
        name = _name(asked.model, asked.name)
        for field, what in (("username", asked.username), ("password", asked.password)):
            if what:
                raise InvalidRequest(f"'{field}': models come without a login; leave it out.", param=field)
        statuses = await self._pulling(name)
        if asked.stream is not False:
            return StreamingResponse(_lines(statuses), headers=_text(ndjson.HEADERS))
        last: Status = {}
        async for status in statuses:
            last = status
        return json_response(last)

    async def delete(self, request: Request) -> Response:
        """Delete a model from the store; never the one that is served."""
        asked = decode(await self._app.read_body(request), _delete)
        name = _name(asked.model, asked.name)
        self._allow("deleting models")
        if names.is_own(self._app, name):
            raise Forbidden("The served model can't be deleted while it is served.")
        wanted = names.stored(name)
        if self._app.derived_models.get(wanted) is not None:
            try:
                await asyncio.to_thread(self._app.derived_models.remove, wanted)
            except ModelError as error:
                raise Forbidden(str(error)) from error
            return Response(status_code=200)
        stored = await asyncio.to_thread(self._store.find, wanted) if is_name(wanted) else None
        if stored is None:
            raise names.not_found(name, "the store has no such model")
        if self._shelf.is_served(stored):
            raise Forbidden("The served model can't be deleted while it is served.")
        if made := self._app.derived_models.derived_from(wanted):
            raise Forbidden(f"The model '{made[0]}' is made of this one; delete it first.")
        try:
            await asyncio.to_thread(self._store.remove, wanted)
        except ModelError as error:
            raise Forbidden(str(error)) from error
        return Response(status_code=200)

    async def create(self, request: Request) -> Response:
        """Make a model of another one."""
        asked = written_out(decode(await self._app.read_body(request), _create))
        name = names.stored(_name(asked.model, asked.name))
        self._allow("making models")
        if not asked.from_:
            raise InvalidRequest("'from' is missing: name the model that this one is made of.", param="from")
        base, under = await asyncio.to_thread(self._based, asked.from_, "from")
        made = entry(asked, base, under)
        await self._put(name, made)
        told = [{"status": f"using existing layer {base}"}, {"status": "writing manifest"}, {"status": "success"}]
        if asked.stream is False:
            return json_response(told[-1])
        return StreamingResponse(_lines(_all(told)), headers=_text(ndjson.HEADERS))

    async def copy(self, request: Request) -> Response:
        """Give a model another name."""
        asked = decode(await self._app.read_body(request), _copy)
        for field in ("source", "destination"):
            if not getattr(asked, field):
                raise InvalidRequest(f"'{field}' is missing: name a model.", param=field)
        self._allow("copying models")
        base, under = await asyncio.to_thread(self._based, asked.source or "", "source")
        copied = msgspec.structs.replace(under or DerivedModel(base=base), modified=now())
        await self._put(names.stored(asked.destination or ""), copied)
        return Response(status_code=200)

    def _based(self, name: str, param: str) -> tuple[str, DerivedModel | None]:
        """The model of this name, by the store's name for it; and the entry that it is, where it is one."""
        app, wanted = self._app, names.stored(name)
        if (under := app.derived_models.get(wanted)) is not None:
            return under.base, under
        if names.is_own(app, name):
            return app.store_name or app.model_name, None
        if is_name(wanted) and self._store.find(wanted) is not None:
            return wanted, None
        if app.serves(name):
            return app.store_name or app.model_name, None
        raise names.not_found(name, f"'{param}' has to name the served model or one of the store")

    async def _put(self, name: str, made: DerivedModel) -> None:
        app = self._app
        taken = names.is_own(app, name) or name in (app.store_name, app.model_name)
        if taken or (is_name(name) and await asyncio.to_thread(self._store.find, name) is not None):
            raise Forbidden("A model of this name is there already, with weights of its own; choose another name.")
        try:
            await asyncio.to_thread(app.derived_models.put, name, made)
        except ModelError as error:
            raise InvalidRequest(f"{error}.", param="model") from None

    async def unsupported(self, request: Request) -> Response:
        """Routes that make models or send them elsewhere."""
        raise NotSupported(
            f"{request.scope['path']}: files are neither uploaded nor pushed here. Put a GGUF file into the store, or "
            "serve it by its path."
        )

    @property
    def _info(self) -> Any:
        model = self._app.engine.model
        return model.info if model is not None else None

    def _allow(self, what: str) -> None:
        if not self._app.settings.manage_models:
            raise Forbidden(f"This server doesn't allow {what}; start it with --manage-models to allow it.")

    async def _pulling(self, name: str) -> AsyncIterator[Status]:
        """What there is to tell. Raises RequestError before anything is fetched."""
        if names.is_own(self._app, name):
            return _present()
        entry = self._fetches.entry(name)
        if await asyncio.to_thread(self._fetches.present, entry):
            return _present()
        self._allow("fetching models")
        return self._fetches.follow(entry, self._app.settings.keepalive_seconds)


async def _present() -> AsyncIterator[Status]:
    yield {"status": "pulling manifest"}
    yield {"status": "success"}


async def _all(statuses: list[Status]) -> AsyncIterator[Status]:
    for status in statuses:
        yield status


async def _lines(statuses: AsyncIterator[Status]) -> AsyncIterator[bytes]:
    try:
        async for status in statuses:
            yield ndjson.line(status)
    except FetchFailed as error:
        yield ndjson.line(OllamaError(error.message))


def _name(model: str | None, name: str | None) -> str:
    if not (model or name):
        raise InvalidRequest("'model' is missing: name a model.", param="model")
    return model or name or ""


def _text(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
