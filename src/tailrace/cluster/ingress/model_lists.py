"""The lists of models, which are those of all replicas: one reply of each model, merged into one.

A model without a replica is listed as it was when it had one, or by its name alone. So clients find one that sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

#: The lists, by canonical path; in each object the names of the lists with a row for each model.
LISTS: Mapping[str, tuple[str, ...]] = {
    "/models": ("data", "models"),
    "/api/tags": ("models",),
    "/api/ps": ("models",),
}
#: The list of the models that are loaded: one without a replica isn't.
_LOADED = "/api/ps"


class ModelLists:
    """Merges, and remembers each model's rows."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], list[Any]] = {}  #: by model, path and name of the list

    def merged(self, path: str, replies: Sequence[tuple[str, bytes]], models: Iterable[str]) -> bytes:
        """The body of the list at ``path``. ``replies``: those of the models that have a replica, with their names, the
        default first; ``models``: all. Raises ValueError where a reply isn't the list.
        """
        bodies = {model: _object(body) for model, body in replies}
        result: dict[str, Any] = dict(next(iter(bodies.values()), {"object": "list"} if path == "/models" else {}))
        for name in LISTS[path]:
            if bodies and not any(name in body for body in bodies.values()):
                continue  # Anthropic's and OpenAI's lists have one name each.
            rows: list[Any] = []
            for model in models:
                rows += self._rows_of(path, name, model, bodies.get(model))
            result[name] = _unique(rows)
        if "first_id" in result and result["data"]:
            result["first_id"], result["last_id"] = result["data"][0].get("id"), result["data"][-1].get("id")
        return msgspec.json.encode(result)

    def _rows_of(self, path: str, name: str, model: str, body: Mapping[str, Any] | None) -> list[Any]:
        if body is not None:
            found = body.get(name)
            rows = found if isinstance(found, list) else []
            if path != _LOADED:
                self._rows[model, path, name] = rows
            return rows
        if path == _LOADED:
            return []
        return self._rows.get((model, path, name), [_named_row(path, name, model)])


def _object(body: bytes) -> dict[str, Any]:
    found = msgspec.json.decode(body)
    if not isinstance(found, dict):
        raise ValueError("a list of models is no object")
    return found


def _named_row(path: str, name: str, model: str) -> dict[str, Any]:
    """The row of a model of which nothing but the name is known."""
    if name == "data":
        return {"id": model, "object": "model", "created": int(time.time()), "owned_by": "tailrace"}
    return {"name": model, "model": model}


def _unique(rows: Iterable[Any]) -> list[Any]:
    """The rows without those whose name came before."""
    found: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            found.setdefault(str(row.get("id") or row.get("name")), row)
    return list(found.values())
