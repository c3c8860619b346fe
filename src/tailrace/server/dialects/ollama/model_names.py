"""Ollama's model names: a name without a tag means the tag ``latest``.

Lists have names with tags, because Open WebUI adds ``:latest`` to a name and looks it up in the list."""

from __future__ import annotations

from tailrace.errors import ModelNotFound
from tailrace.server.app_state import AppState
from tailrace.server.models.model_directory import LATEST

#: So much of a wrong name is repeated.
_MAX_SHOWN = 200


def with_tag(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def without_tag(name: str) -> str:
    """The name in the store and the catalogue, which have no tags."""
    return name.removesuffix(LATEST)


def is_served_model(app: AppState, name: str) -> bool:
    """Whether ``name`` is a served model's own."""
    return app.models.own(name) is not None


def check(app: AppState, name: str | None) -> str:
    """The model's name in replies. Raises ModelNotFound for a model that isn't served."""
    found = app.models.allowed(name or None)
    if found is None:
        raise not_served(app, name)
    return name or with_tag(found.service.name)


def not_served(app: AppState, name: str | None) -> ModelNotFound:
    """The error for a model that isn't served, or not to this caller."""
    return not_found(name or app.models.default.name, app.models.reason())


def not_found(name: str, why: str) -> ModelNotFound:
    """The error for a model that isn't there, in the words that Ollama's clients know."""
    shown = name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…"
    return ModelNotFound(f"model '{shown}' not found: {why}", param="model")
