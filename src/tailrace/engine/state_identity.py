"""What a prefix state in a file depends on: states of one identity mean the same to each engine that finds them.

An identity is a model's file, the version of llama.cpp, and every setting of the model that may change a state. A new
setting counts as one of these until it is named here as one that doesn't.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import msgspec

from tailrace.engine.backends.base import Backend
from tailrace.models.shards import shard_paths, total_bytes
from tailrace.settings import MODEL_FIELDS, Settings

#: Settings of a model with which the same tokens have the same state.
_NEUTRAL = frozenset(
    {
        "model",  # The file's path is part of the identity.
        "alias",
        "aliases",
        "chat_template",
        "ctx",
        "parallel",
        "kv_tokens",
        "keep_mb",
        "keep_disk_mb",
        "prefill_chunk",
        "step_ms",
        "gpu_layers",
        "split_mode",
        "tensor_split",
        "main_gpu",
        "mmap",
        "mlock",
        "kernels",
        "speculate",
        "draft_model",
        "draft_tokens",
        "threads",
        "threads_prefill",
        "cpus",
        "cpus_prefill",
        "pin",
        "poll",
        "thread_priority",
        "replicas",
        "numa",
        "pinned",
        "idle_seconds",
        "system_prompt",
        "sampling",
    }
)


#: States of an engine that wrote them in another format aren't found.
_FORMAT = 2


def state_identity(model: Path, settings: Settings, backend: Backend) -> str:
    """The identity of the states of ``model`` as ``backend`` has loaded it: 20 hexadecimal digits. Raises OSError."""
    changed = max(shard.stat().st_mtime_ns for shard in shard_paths(model) if shard == model or shard.exists())
    defaults = Settings()
    chosen = {
        name: value
        for name, value in msgspec.structs.asdict(settings).items()
        if name in MODEL_FIELDS - _NEUTRAL and value != getattr(defaults, name)
    }
    # Such a model's positions depend on the size of the context.
    context = backend.layout_policy.max_cells if backend.layout_policy.fixed else 0
    facts = (
        _FORMAT,
        str(model.resolve()),
        total_bytes(model),
        changed,
        metadata.version("llama-cpp-python"),
        sorted(chosen.items()),
        context,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
