"""What a prefix state depends on: states of one identity mean the same to each engine that finds them.

An identity is a model's file, the version of llama.cpp, and every setting of the model that may change a state. A new
setting counts as one of these until it is named here as one that doesn't.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from tailrace.engine.backends.base import Backend
from tailrace.models.shards import shard_paths, total_bytes
from tailrace.settings import MODEL_FIELDS, Settings

#: Bytes of a model's file that are hashed: its header with the vocabulary, and pieces of its weights.
_SAMPLED_START = 1 << 20
_SAMPLES = 64
_SAMPLE_BYTES = 4096
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
        "devices",
        "placement",
        "gpu_layers",
        "split_mode",
        "tensor_split",
        "main_gpu",
        "mmap",
        "mlock",
        "kernels",
        "speculate",
        "draft_model",
        "draft_devices",
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
    return _digest(
        _FORMAT,
        str(model.resolve()),
        total_bytes(model),
        changed,
        metadata.version("llama-cpp-python"),
        _changed_settings(settings),
        _fixed_context(backend),
    )


def prefix_identity(model: Path | None, settings: Settings, backend: Backend) -> str:
    """What replicas of one model on several machines have in common, and replicas of others don't. Raises OSError.

    It depends on the file's size and on samples of its bytes, not on where it is. ``model`` None: the fake backend's.
    """
    info = backend.info
    samples = [] if model is None else [_sample(shard) for shard in shard_paths(model) if shard.exists()]
    return _digest(info.description, len(backend.vocabulary), samples, _changed_settings(settings))


def _sample(file: Path) -> tuple[int, str]:
    """A file's size, and a hash of its beginning and of pieces throughout it: weights differ in all of them."""
    size = file.stat().st_size
    found = hashlib.sha256()
    with file.open("rb") as opened:
        found.update(opened.read(_SAMPLED_START))
        for number in range(_SAMPLES):
            opened.seek(size * number // _SAMPLES)
            found.update(opened.read(_SAMPLE_BYTES))
    return size, found.hexdigest()


def _changed_settings(settings: Settings) -> list[tuple[str, Any]]:
    """The settings that may change a state, and that haven't their defaults."""
    defaults = Settings()
    return sorted(
        (name, value)
        for name, value in msgspec.structs.asdict(settings).items()
        if name in MODEL_FIELDS - _NEUTRAL and value != getattr(defaults, name)
    )


def _fixed_context(backend: Backend) -> int:
    """The size of the context, where a model's positions depend on it."""
    return backend.layout_policy.max_cells if backend.layout_policy.fixed else 0


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
