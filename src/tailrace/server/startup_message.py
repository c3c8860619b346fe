"""The message on standard output when the server is ready, with what to try: a browser, curl, a client."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tailrace.server.browsers.hosts import is_loopback
from tailrace.server.models.model_service import ModelService
from tailrace.server.start_check import OPEN_TO_NETWORK
from tailrace.settings import Settings

#: Models that the message names.
_MAX_NAMES = 10

_announced = False


def title_of(services: Sequence[ModelService], *, on_demand: bool) -> str:
    """What is ready."""
    if not on_demand and (info := services[0].info) is not None:
        return f"{services[0].name} is ready ({info.description}, context {info.context} tokens)"
    names = ", ".join(service.name for service in services[:_MAX_NAMES])
    more = f" and {len(services) - _MAX_NAMES} more" if len(services) > _MAX_NAMES else ""
    ready = "1 model is" if len(services) == 1 else f"{len(services)} models are"
    return f"{ready} ready, loaded on demand: {names}{more}"


def announce(http: socket.socket, settings: Settings, title: str, model: ModelService, *, needs_key: bool) -> None:
    """Print ``title``, what to try with ``model``, and where the server listens; once in the life of the process.
    ``needs_key``: whether requests need an API key.
    """
    global _announced
    if _announced:
        return
    _announced = True
    host, port = http.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    path, body = _example(model)
    warning = f"  Warning: {OPEN_TO_NETWORK}.\n\n" if not needs_key and not is_loopback(settings.host) else ""
    print(
        f"\n  {title}. Try:\n\n"
        f"  a browser:   {url}/\n"
        f"  curl:        curl -N {url}{path} -H 'Content-Type: application/json'{key} -d '{body}'\n"
        f"{_launch(model)}\n"
        f"{warning}tailrace listens on {url}",
        flush=True,
    )


def _launch(model: ModelService) -> str:
    """The line about clients; none for a model that writes no text."""
    if model.info is not None and not model.info.generates:
        return ""
    return f"  a client:    {_command()} launch claude   (or codex, opencode, qwen, aider, open-webui)\n"


def _command() -> str:
    """How the user's shell finds tailrace: in a checkout's virtual environment it isn't on the path."""
    if shutil.which("tailrace") is not None:
        return "tailrace"
    own = Path(sys.executable).with_name("tailrace")
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def _example(model: ModelService) -> tuple[str, str]:
    """A route that the model can answer, and the JSON of a request to it."""
    info = model.info
    if info is None or info.generates:
        asked = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True}
        return "/v1/chat/completions", json.dumps({"model": model.name, **asked})
    if info.rank_score is not None:
        return "/v1/rerank", json.dumps({"model": model.name, "query": "Hello!", "documents": ["Hi.", "Goodbye."]})
    return "/v1/embeddings", json.dumps({"model": model.name, "input": "Hello!"})
