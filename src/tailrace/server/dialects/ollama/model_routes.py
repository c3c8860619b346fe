"""Ollama's routes of models: lists, descriptions, and changes of the store.

Files are read and written on threads. Changes of the store need ``manage_models``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tailrace.errors import Forbidden, InvalidRequest, ModelError, NotSupported
from tailrace.models.derived_models import DerivedModel
from tailrace.models.reference import parse_reference
from tailrace.models.removal import remove_model
from tailrace.models.store import Store, is_name
from tailrace.server import ndjson
from tailrace.server.app_state import AppState
from tailrace.server.caller import caller_of
from tailrace.server.dialects.ollama import model_names
from tailrace.server.dialects.ollama.derived_model_request import CopyRequest, CreateRequest, entry, expand_modelfile
from tailrace.server.dialects.ollama.model_list import ModelEntry, ModelList, description
from tailrace.server.dialects.ollama.pull import Status
from tailrace.server.dialects.ollama.reply import now
from tailrace.server.json_response import json_response
from tailrace.server.models.model_service import ModelService
from tailrace.server.models.withdrawal import check_removable, withdraw

#: The version of Ollama's API that is spoken: clients compare it, and some refuse to talk to one that is too old.
API_VERSION = "0.12.11"
#: Ollama's expiry of a model that is never unloaded.
_NEVER_EXPIRES = timedelta(days=36_500)


class ShowRequest(msgspec.Struct):
    """The body of ``/api/show``; ``name`` is the older word for ``model``."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    template: str | None = None
    options: dict[str, Any] | None = None


class DeleteRequest(msgspec.Struct):
    """The body of ``/api/delete``."""

    model: str | None = None
    name: str | None = None


_show = msgspec.json.Decoder(ShowRequest)
_delete = msgspec.json.Decoder(DeleteRequest)
_create = msgspec.json.Decoder(CreateRequest)
_copy = msgspec.json.Decoder(CopyRequest)


class ModelRoutes:
    """The handlers."""

    def __init__(self, app: AppState) -> None:
        self._app = app
        self._store = Store()
        self._models = ModelList(app, self._store)

    async def version(self, request: Request) -> Response:
        """The API's version, alone: ollama4j refuses an object with another key."""
        return json_response({"version": API_VERSION})

    async def tags(self, request: Request) -> Response:
        """Answers in any state of the engine."""
        models = await asyncio.to_thread(self._models.models)
        return json_response({"models": [model.row for model in models]})

    async def running(self, request: Request) -> Response:
        """The served models that are loaded."""
        loaded = [service for service in self._app.models.usable if service.engine.is_connected]
        expiries = [self._app.gate.expires_in(service) for service in loaded]
        models = await asyncio.to_thread(lambda: [self._models.served(service) for service in loaded])
        rows = [_running(*each) for each in zip(models, loaded, expiries, strict=True)]
        return json_response({"models": rows})

    async def show(self, request: Request) -> Response:
        """A model's description, from its file."""
        payload = await self._app.read(request, _show)
        name = _name(payload.model, payload.name)
        for field, what in (("system", payload.system), ("template", payload.template), ("options", payload.options)):
            if what:
                raise InvalidRequest(f"'{field}': models are shown as they are; leave it out.", param=field)
        if payload.verbose:
            raise InvalidRequest("'verbose': the vocabulary's arrays aren't told; leave it out.", param="verbose")
        model = await asyncio.to_thread(self._models.find, name)
        # A derived model's weights are its parent's.
        service = self._app.models.own(model.name) or self._app.models.own(model.parent)
        return json_response(description(model, None if service is None else service.info))

    async def delete(self, request: Request) -> Response:
        """Delete a model from the store. One that is served is unloaded first."""
        payload = await self._app.read(request, _delete)
        name = _name(payload.model, payload.name)
        self._allow("deleting models")
        if not self._app.models.may_use(name):
            raise model_names.not_served(self._app, name)
        if (service := self._served(name)) is not None:
            return await self._delete_served(service, name)
        wanted = model_names.without_tag(name)
        if (derived := self._app.derived_models.get(wanted)) is not None:
            self._check_owner(request, wanted, derived)
            try:
                await asyncio.to_thread(self._app.derived_models.remove, wanted)
            except ModelError as error:
                raise Forbidden(str(error)) from error
            return Response(status_code=200)
        stored = await asyncio.to_thread(self._models.stored, wanted)
        if stored is None:
            raise model_names.not_found(name, "the store has no such model")
        if self._models.is_served(stored):
            raise Forbidden("A served model can't be deleted while it is served.")
        if made := self._app.derived_models.derived_from(wanted):
            raise Forbidden(f"The model '{made[0]}' is made of this one; delete it first.")
        try:
            await asyncio.to_thread(remove_model, parse_reference(wanted), self._store)
        except ModelError as error:
            raise Forbidden(str(error)) from error
        return Response(status_code=200)

    def _served(self, name: str) -> ModelService | None:
        """The served model that has this name and is none that clients have made of it."""
        found = self._app.models.named(name)
        return None if found is None or found.derived is not None else found.service

    async def _delete_served(self, service: ModelService, name: str) -> Response:
        app = self._app
        check_removable(app, service, self._store.folder)
        base = app.models.store_name(service) or service.name
        if made := app.derived_models.derived_from(base):
            raise Forbidden(f"The model '{made[0]}' is made of this one; delete it first.")
        try:
            await asyncio.to_thread(remove_model, parse_reference(service.spec.settings.model), self._store)
        except ModelError as error:
            raise Forbidden(str(error)) from error
        withdraw(app, service)
        return Response(status_code=200)

    async def create(self, request: Request) -> Response:
        """Make a model of another one."""
        payload = expand_modelfile(await self._app.read(request, _create))
        name = model_names.without_tag(_name(payload.model, payload.name))
        self._allow("making models")
        if not payload.from_:
            raise InvalidRequest("'from' is missing: name the model that this one is made of.", param="from")
        base, under = await asyncio.to_thread(self._resolve_base, payload.from_, "from")
        await self._put(request, name, await asyncio.to_thread(entry, payload, base, under))
        statuses = [{"status": f"using existing layer {base}"}, {"status": "writing manifest"}, {"status": "success"}]
        if payload.stream is False:
            return json_response(statuses[-1])
        return StreamingResponse(_lines(_all(statuses)), headers=_text(ndjson.HEADERS))

    async def copy(self, request: Request) -> Response:
        """Give a model another name."""
        payload = await self._app.read(request, _copy)
        for field in ("source", "destination"):
            if not getattr(payload, field):
                raise InvalidRequest(f"'{field}' is missing: name a model.", param=field)
        self._allow("copying models")
        base, under = await asyncio.to_thread(self._resolve_base, payload.source or "", "source")
        copied = msgspec.structs.replace(under or DerivedModel(base=base), modified=now())
        await self._put(request, model_names.without_tag(payload.destination or ""), copied)
        return Response(status_code=200)

    def _resolve_base(self, name: str, param: str) -> tuple[str, DerivedModel | None]:
        """The model of this name, by the store's name for it; and the entry that it is, where it is one."""
        app, wanted = self._app, model_names.without_tag(name)
        if not app.models.may_use(name):
            raise model_names.not_served(app, name)
        if (under := app.derived_models.get(wanted)) is not None:
            return under.base, under
        if (service := app.models.own(name)) is not None:
            return app.models.store_name(service) or service.name, None
        if is_name(wanted) and self._store.find(wanted) is not None:
            return wanted, None
        if (found := app.models.allowed(name)) is not None:
            return app.models.store_name(found.service) or found.service.name, found.derived
        raise model_names.not_found(name, f"'{param}' has to name a served model or one of the store")

    async def _put(self, request: Request, name: str, made: DerivedModel) -> None:
        app = self._app
        if (before := app.derived_models.get(name)) is not None:
            self._check_owner(request, name, before)
        made = msgspec.structs.replace(made, owner=caller_of(request.scope).owner)
        stored = {app.models.store_name(service) for service in app.models.services}
        taken = model_names.is_served_model(app, name) or name in stored
        if taken or (is_name(name) and await asyncio.to_thread(self._store.find, name) is not None):
            raise Forbidden("A model of this name is there already, with weights of its own; choose another name.")
        try:
            await asyncio.to_thread(app.derived_models.put, name, made)
        except ModelError as error:
            raise InvalidRequest(f"{error}.", param="model") from None

    def _check_owner(self, request: Request, name: str, derived: DerivedModel) -> None:
        """Raise Forbidden when another key has made this model. The key of the setting ``api_key``, and servers without
        keys, may change all.
        """
        if (owner := caller_of(request.scope).owner) and owner != derived.owner:
            raise Forbidden(f"The model '{name}' was made with another key; only that key may change or delete it.")

    async def unsupported(self, request: Request) -> Response:
        """Routes that make models or send them elsewhere."""
        raise NotSupported(
            f"{request.scope['path']}: files are neither uploaded nor pushed here. Put a GGUF file into the store, or "
            "serve it by its path."
        )

    def _allow(self, what: str) -> None:
        if not self._app.settings.manage_models:
            raise Forbidden(f"This server doesn't allow {what}; start it with --manage-models to allow it.")


def _running(model: ModelEntry, service: ModelService, seconds: float) -> dict[str, Any]:
    """The row of a loaded model, which is unloaded after ``seconds`` without a request."""
    row = {name: value for name, value in model.row.items() if name != "modified_at"}
    context = service.info.context if service.info is not None else 0
    # How much of it lies on a GPU is known to the engine alone.
    kept = _NEVER_EXPIRES if math.isinf(seconds) else timedelta(seconds=min(seconds, _NEVER_EXPIRES.total_seconds()))
    return {**row, "expires_at": now() + kept, "size_vram": 0, "context_length": context}


async def _all(statuses: list[Status]) -> AsyncIterator[Status]:
    for status in statuses:
        yield status


async def _lines(statuses: AsyncIterator[Status]) -> AsyncIterator[bytes]:
    async for status in statuses:
        yield ndjson.line(status)


def _name(model: str | None, name: str | None) -> str:
    if not (model or name):
        raise InvalidRequest("'model' is missing: name a model.", param="model")
    return model or name or ""


def _text(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
