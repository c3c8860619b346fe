"""The memory of the model that is to be served, from its header and the settings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from tailrace.errors import ModelError
from tailrace.machine.memory_fit import MemoryDemand
from tailrace.machine.plan import ModelNeeds
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_header import ModelFacts, read_facts, read_header
from tailrace.models.model_reference import locate_model
from tailrace.models.model_summary import ModelSummary, summarise
from tailrace.models.shards import total_bytes
from tailrace.settings import Settings

#: Tokens that llama.cpp computes in one graph, at most.
_MAX_UBATCH = 512
#: Bytes of a number in a buffer.
_FLOAT = 4
#: Vectors of the embedding's width, and of the feed-forward layer's, that a graph holds at once.
_STATES = 8
#: Bytes of the processes without a model: Python, libraries and the vocabulary.
_PROCESSES = 200_000_000
#: Bytes of one engine without a model.
ENGINE = 120_000_000
#: Rows and columns of a weight.
_MAX_SIZE = 1 << 22


def model_needs(path: Path, settings: Settings) -> ModelNeeds:
    """The memory of a replica that serves the file, with a KV cache for one whole context. Raises ModelError."""
    facts = _summary(path, settings).facts
    tokens = settings.kv_tokens or settings.ctx or facts.context or 0
    return ModelNeeds(weights=total_bytes(path), kv=tokens * _token_bytes(facts, settings))


def check_cache_types(path: Path, settings: Settings) -> None:
    """Raise ConfigurationError where the model, or its draft model, can't have its KV cache in the settings' types.

    Raises ModelError and OSError as ``memory_demand``.
    """
    shapes = [_summary(path, settings).facts.kv]
    if settings.speculate == "draft" and settings.draft_model is not None:
        shapes.append(read_facts(locate_model(settings.draft_model).path).kv)
    for shape in shapes:
        if shape is not None:
            shape.check(_cache_types(settings))


def _token_bytes(facts: ModelFacts, settings: Settings) -> int:
    """Bytes of a token in the KV cache; 0 where they aren't known."""
    return 0 if facts.kv is None else facts.kv.token_bytes(_cache_types(settings))


def _cache_types(settings: Settings) -> CacheTypes:
    return CacheTypes(settings.cache_type_k, settings.cache_type_v)


def memory_demand(path: Path, settings: Settings) -> MemoryDemand:
    """The memory of a replica that serves the file, with its draft model. Raises ModelError and OSError.

    The buffers are an estimate: the logits of a pass, and some vectors for each of its tokens.
    """
    return _with_draft(path, settings, _pass_rows(settings), _PROCESSES)


def engine_demand(path: Path, settings: Settings) -> MemoryDemand:
    """The memory of one engine of several models, as ``memory_demand``.

    A pass over a prompt needs the logits of its last token alone, so most of the buffer for logits is never touched.
    ``memory_demand`` counts all of it: with one model there is no other to make room for.
    """
    return _with_draft(path, settings, 2 * settings.parallel, ENGINE)


def summary_demand(summary: ModelSummary, weights: int, settings: Settings) -> MemoryDemand:
    """``memory_demand`` without a draft model, where the header was read before. ``weights``: the files' bytes."""
    return _with_process(_model_demand(summary, weights, settings, _pass_rows(settings)), _PROCESSES)


def _pass_rows(settings: Settings) -> int:
    """A pass has the logits of its tokens, and the engine those of each reply."""
    return min(_MAX_UBATCH, max(settings.prefill_chunk, settings.parallel)) + settings.parallel


def _with_draft(path: Path, settings: Settings, rows: int, process: int) -> MemoryDemand:
    """``rows``: of logits. ``process``: bytes without a model."""
    demand = _demand(path, settings, rows)
    # Layers of a draft model on workers take nothing here. Where this machine shares them, all of them are counted.
    elsewhere = settings.draft_devices is not None and "local" not in settings.draft_devices.split(",")
    if settings.speculate == "draft" and settings.draft_model is not None and not elsewhere:
        own = msgspec.structs.replace(settings, override_kv=())  # They are the served model's.
        path = locate_model(settings.draft_model, models_dir=settings.models_dir).path
        draft = _demand(path, own, rows)
        demand = MemoryDemand(
            weights=demand.weights + draft.weights,
            buffers=demand.buffers + draft.buffers,
            bytes_per_token=demand.bytes_per_token + draft.bytes_per_token,
            context=demand.context,
        )
    return _with_process(demand, process)


def _with_process(demand: MemoryDemand, process: int) -> MemoryDemand:
    return msgspec.structs.replace(demand, buffers=demand.buffers + process)


def _demand(path: Path, settings: Settings, rows: int) -> MemoryDemand:
    return _model_demand(_summary(path, settings), total_bytes(path), settings, rows)


def _summary(path: Path, settings: Settings) -> ModelSummary:
    """The header's summary. A load asks for it several times, and a large vocabulary takes a tenth of a second."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    return _read_summary(path, changed, total_bytes(path), settings.override_kv)


@lru_cache(maxsize=16)
def _read_summary(path: Path, changed: int, size: int, overrides: tuple[str, ...]) -> ModelSummary:
    """``changed`` and ``size`` are what the file must not have changed since."""
    return summarise(read_header(path, overrides))


def _model_demand(summary: ModelSummary, weights: int, settings: Settings, rows: int) -> MemoryDemand:
    facts = summary.facts
    feed_forward = summary.values.get(f"{facts.architecture}.feed_forward_length")
    inner = feed_forward if isinstance(feed_forward, int) else 0
    # Sizes that no model has are left to llama.cpp, which says what is wrong with the file.
    width, vocabulary, inner = (
        size if 0 < size <= _MAX_SIZE else 0 for size in (summary.width, summary.vocabulary, inner)
    )
    each = _token_bytes(facts, settings)
    tokens = min(_MAX_UBATCH, max(settings.prefill_chunk, settings.parallel))
    numbers = rows * vocabulary + tokens * _STATES * (width + inner)
    return MemoryDemand(
        weights=weights,
        buffers=_FLOAT * numbers,
        bytes_per_token=each if each <= weights else 0,
        context=facts.context or 0,
    )
