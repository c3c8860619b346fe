"""Anthropic's form of the model list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


def model_object(name: str, created: int) -> dict[str, str]:
    """A model; ``created`` is in seconds since 1970."""
    at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": at, "lifecycle": "active"}


def model_list(names: Sequence[str], created: int) -> dict[str, object]:
    """The only page: the served models and the models that clients have derived from them, as far as the caller may
    use them.
    """
    data = [model_object(name, created) for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}
