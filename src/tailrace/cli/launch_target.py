"""The server and the model to which ``tailrace launch`` leads a client, and whether they are good enough for it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tailrace.cli import background_server, server_choice
from tailrace.cli.launch_clients import Client, Target
from tailrace.cli.listed_models import listed_with_key
from tailrace.cli.served_models import served_models
from tailrace.cli.server_client import NoAnswer, Refused, ServerClient
from tailrace.errors import ConfigurationError, ModelError, TailraceError
from tailrace.machine.running_servers import ServerState, find_servers
from tailrace.models.model_reference import locate_model
from tailrace.settings import resolve


class NotSuitable(TailraceError):
    """The client wouldn't work with this server's model."""


@dataclass(frozen=True)
class Found:
    """The server's facts of the model. None: it doesn't say."""

    target: Target
    tools: bool | None
    trained: int | None  #: tokens that the model was trained for


def own_server(model: str | None) -> tuple[ServerState, str | None] | None:
    """The user's running server with this model, which has a name there, or the only server; None where none is there.

    Raises ConfigurationError where the server has to be named.
    """
    servers = find_servers()
    if model is None:
        return (server_choice.choose(None, servers), None) if servers else None
    for name in _names(model):
        if serving := [server for server in servers if name in server.models]:
            return server_choice.choose(name, serving), name
    return None


def _names(model: str) -> tuple[str, ...]:
    """The names that a server may have for what the user calls ``model``: a name, or a reference such as a path."""
    try:
        return (model, locate_model(model, models_dir=resolve({}).settings.models_dir).name)
    except ModelError:
        return (model,)  # A name that only a server knows.


def start_server(model: str, ctx: int | None) -> ServerState:
    """Serve the model in the background, on a free port where the usual one is taken. Raises TailraceError."""
    flags: dict[str, Any] = {"ctx": ctx}
    settings = resolve({}).settings
    if not _is_free(settings.host, settings.port):
        flags["port"] = 0
    return background_server.start(served_models([model], flags))


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


def find_model(client: ServerClient, name: str | None) -> Found:
    """The server's model ``name``, or its first. Raises NoAnswer, Refused, WrongKey and ConfigurationError."""
    entries = listed_with_key(client, ("TAILRACE_API_KEY",))
    names = [entry["id"] for entry in entries]
    if not names:
        raise Refused(f"{client.url} serves no model")
    if name is not None and name not in names:
        raise ConfigurationError(f"{client.url} doesn't serve {name!r}; it has {', '.join(names[:8])}")
    entry = next(entry for entry in entries if name in (None, entry["id"]))
    meta, shown = _object(entry.get("meta")), _shown(client, entry["id"])
    context = entry.get("max_model_len") or entry.get("context_length") or meta.get("n_ctx")
    if context is None and len(names) == 1:
        context = _props_context(client)
    facts = _object(shown.get("model_info"))
    trained = meta.get("n_ctx_train") or facts.get(f"{facts.get('general.architecture')}.context_length")
    capabilities = shown.get("capabilities")
    return Found(
        target=Target(client.root, entry["id"], context if isinstance(context, int) else None),
        tools="tools" in capabilities if isinstance(capabilities, list) else None,
        trained=trained if isinstance(trained, int) else None,
    )


def check_suitable(client: Client, found: Found) -> None:
    """Raises NotSuitable, with the numbers and what to do, where the client wouldn't work."""
    target = found.target
    if client.tools and found.tools is False:
        raise NotSuitable(
            f"{client.title} works with tools, and {target.model} on {target.root} has none: choose a model that "
            "tailrace list shows with tools, or go on with --anyway"
        )
    if found.trained is not None and found.trained < client.context:
        has, advice = found.trained, "It was trained for no more, so choose another model"
    elif target.context is not None and target.context < client.context:
        has, advice = target.context, f"Serve it with --ctx {client.context}, or choose another model"
    else:
        return
    raise NotSuitable(
        f"{client.title} sends about {client.prompt:,} tokens before the first word and needs a context of "
        f"{client.context:,}; {target.model} on {target.root} has {has:,}. {advice} (tailrace list has their "
        "contexts), or go on with --anyway"
    )


def _props_context(client: ServerClient) -> int | None:
    """llama-server's context of a slot."""
    try:
        status, body = client.get("/props")
    except (NoAnswer, Refused):
        return None
    context = _object(_json(body, status).get("default_generation_settings")).get("n_ctx")
    return context if isinstance(context, int) else None


def _shown(client: ServerClient, model: str) -> Mapping[str, Any]:
    """The facts of the model by Ollama's API and by this server's own."""
    try:
        status, body = client.post("/api/show", {"model": model})
    except (NoAnswer, Refused):
        return {}
    return _json(body, status)


def _json(body: bytes, status: int) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any]) if status == 200 else {}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
