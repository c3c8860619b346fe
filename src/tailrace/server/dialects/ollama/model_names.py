"""Ollama's model names: a name without a tag means the tag ``latest``.

Lists have names with tags, because Open WebUI adds ``:latest`` to a name and looks it up in the list."""

from __future__ import annotations

from tailrace.errors import ModelNotFound
from tailrace.server.app_state import LATEST, AppState
from tailrace.server.caller import current_caller

#: So much of a wrong name is repeated.
_MAX_SHOWN = 200


def with_tag(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def without_tag(name: str) -> str:
    """The name in the store and the catalogue, which have no tags."""
    return name.removesuffix(LATEST)


def is_served_model(app: AppState, name: str | None) -> bool:
    """Whether ``name`` is the served model's own; absent and empty it is."""
    return not name or with_tag(name) == with_tag(app.model_name)


def is_served(app: AppState, name: str) -> bool:
    """Whether ``name``, with or without its tag, means the served model or a model derived from it."""
    return is_served_model(app, name) or app.serves(name)


def check(app: AppState, name: str | None) -> str:
    """The model's name in replies. Raises ModelNotFound for a model that isn't served."""
    if app.may_use(name or None) and (not name or is_served(app, name)):
        return name or with_tag(app.model_name)
    raise not_served(app, name)


def not_served(app: AppState, name: str | None) -> ModelNotFound:
    """The error for a model that isn't served, or not to this caller."""
    limited = current_caller().models
    why = "or this key may not use it" if limited else f"this server serves '{app.model_name}'"
    return not_found(name or app.model_name, why)


def not_found(name: str, why: str) -> ModelNotFound:
    """The error for a model that isn't there, in the words that Ollama's clients know."""
    shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
    return ModelNotFound(f"model '{shown}' not found: {why}", param="model")
