"""Model names as Ollama has them: a name without a tag means its tag ``latest``.

Lists show names with their tags, because Open WebUI adds ``:latest`` to what it sends and looks that up in the list.
"""

from __future__ import annotations

from tailrace.errors import ModelNotFound
from tailrace.server.app_state import LATEST, AppState

#: So much of a wrong name is repeated.
_SHOWN = 200


def tagged(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def stored(name: str) -> str:
    """The name as the store and the catalogue have it: there are no tags."""
    return name.removesuffix(LATEST)


def is_own(app: AppState, name: str | None) -> bool:
    """Whether ``name`` is the served model's own; absent and empty it is."""
    return not name or tagged(name) == tagged(app.model_name)


def answers(app: AppState, name: str) -> bool:
    """Whether ``name``, with or without its tag, is one that the served model answers to."""
    return is_own(app, name) or app.serves(name)


def check(app: AppState, name: str | None) -> str:
    """The name to repeat in replies. Raises ModelNotFound when the served model doesn't answer to it."""
    if not name or answers(app, name):
        return name or tagged(app.model_name)
    raise not_found(name, f"this server serves '{app.model_name}'")


def not_found(name: str, why: str) -> ModelNotFound:
    """The error for a model that isn't there, in the words that Ollama's clients know."""
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return ModelNotFound(f"model '{shown}' not found: {why}", param="model")
