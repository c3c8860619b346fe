"""The memory of the model that is to be served, from its header and the settings."""

from __future__ import annotations

from pathlib import Path

from tailrace.machine.plan import ModelNeeds
from tailrace.models.model_header import read_facts
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings


def model_needs(path: Path, settings: Settings) -> ModelNeeds:
    """What a replica that serves the file takes, with a KV cache for one whole context. Raises ModelError."""
    facts = read_facts(path)
    tokens = settings.kv_tokens or settings.ctx or facts.context or 0
    return ModelNeeds(weights=total_bytes(path), kv=tokens * (facts.kv_bytes_per_token or 0))
