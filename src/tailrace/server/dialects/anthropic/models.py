"""Anthropic's form of the model list."""

from __future__ import annotations

from datetime import UTC, datetime


def model_object(name: str, created: int) -> dict[str, str]:
    """The served model; ``created`` is in seconds since 1970."""
    at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": at, "lifecycle": "active"}


def model_list(name: str, created: int) -> dict[str, object]:
    """The one page that there is."""
    return {"data": [model_object(name, created)], "has_more": False, "first_id": name, "last_id": name}
