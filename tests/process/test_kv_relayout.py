"""A KV cache that can't get another layout: the real model keeps its previous layout, and its sequences go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.engine.backends.base import BackendError, KVLayoutError
from tailrace.engine.backends.llama import LlamaBackend, LlamaOptions
from tailrace.engine.kv_cache.layout import Layout
from tailrace.errors import ModelError
from tailrace.machine import free_memory
from tailrace.machine.plan import PoolPlan
from tailrace.models.model_reference import locate_model

_PROMPT = [40, 41, 42, 43]


@pytest.fixture
def backend() -> Iterator[LlamaBackend]:
    pool = PoolPlan(threads=2)
    options = LlamaOptions(
        decode_pool=pool, prefill_pool=pool, ctx=512, parallel=4, kv_tokens=8192, batch=64, gpu_layers=0
    )
    loaded = LlamaBackend(locate_model("smollm2-135m").path, options)
    yield loaded
    loaded.close()


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """llama.cpp makes contexts of up to so many ``cells`` and no larger ones."""
    limit = {"cells": 1 << 30}
    # Imported before the backend, it would be loaded without the kernels.
    import llama_cpp.llama_cpp as llama

    make = llama.llama_init_from_model

    def limited(model: Any, params: Any) -> Any:
        return make(model, params) if params.n_ctx <= limit["cells"] else None

    monkeypatch.setattr(llama, "llama_init_from_model", limited)
    return limit


def read(backend: LlamaBackend, slot: int) -> None:
    backend.decode(_PROMPT, list(range(len(_PROMPT))), [slot] * len(_PROMPT), [])


def greedy(backend: LlamaBackend, slot: int) -> int:
    """The likeliest token after the slot's prompt and one more token."""
    logits = backend.decode([44], [len(_PROMPT)], [slot], [0])
    backend.kv_truncate(slot, len(_PROMPT))
    return int(logits[0].argmax())


@pytest.mark.parametrize("previous", [Layout(0, 1024), Layout(4, 512)], ids=["shared", "partitioned"])
def test_without_memory_for_a_layout_the_previous_one_stays(
    backend: LlamaBackend, memory_for: dict[str, int], previous: Layout
) -> None:
    backend.kv_relayout(previous, [])
    for slot in (0, 1, 2):
        read(backend, slot)
    expected = greedy(backend, 1)
    memory_for["cells"] = previous.total
    with pytest.raises(KVLayoutError, match="can't make a context of 4096 tokens") as caught:
        backend.kv_relayout(Layout(0, 4096), [(1, 0), (2, 1)])
    assert backend.layout == previous
    assert caught.value.lost == {0}, "it was to be dropped, so it wasn't saved"
    assert greedy(backend, 1) == expected
    assert greedy(backend, 2) == expected
    read(backend, 0)
    assert greedy(backend, 0) == expected
    memory_for["cells"] = 1 << 30
    assert backend.kv_relayout(Layout(0, 4096), [(2, 3)]) == []
    assert greedy(backend, 3) == expected


def test_a_growth_that_the_kernel_has_no_memory_for_changes_nothing(
    backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would promise the memory, and end the process that uses it."""
    backend.kv_relayout(Layout(0, 1024), [])
    for slot in (0, 1):
        read(backend, slot)
    expected = greedy(backend, 1)
    # The reserve and some MB: too little for 3,072 cells of 23 kB.
    monkeypatch.setattr(free_memory, "available_memory", lambda: 80_000_000)
    with pytest.raises(KVLayoutError, match=r"4096 tokens takes [0-9]+ MB more") as caught:
        backend.kv_relayout(Layout(0, 4096), [(1, 0)])
    assert caught.value.lost == frozenset()
    assert backend.layout == Layout(0, 1024)
    assert greedy(backend, 1) == expected
    assert greedy(backend, 0) == expected
    assert backend.kv_relayout(Layout(0, 512), [(1, 0)]) == [], "a smaller one takes none"
    assert backend.embedding_context is not None
    with pytest.raises(ModelError, match="no memory for an embedding pass of 4096"):
        backend.embedding_context.reserve(4096)


def test_a_shared_cache_grows_in_place(backend: LlamaBackend, memory_for: dict[str, int]) -> None:
    if not backend.layout_policy.reserved_cells:
        pytest.skip("without the kernels, or where the kernel counts addresses as memory")
    backend.kv_relayout(Layout(0, 1024), [])
    for slot in (0, 2):
        read(backend, slot)
    expected = greedy(backend, 2)
    memory_for["cells"] = 0  # No context can be made.
    assert backend.kv_relayout(Layout(0, 4096), [(0, 0), (2, 2)]) == []
    assert backend.layout == Layout(0, 4096)
    assert greedy(backend, 2) == expected
    assert greedy(backend, 0) == expected
    pieces = 0
    while backend.kv_touch_ahead(1024, 2 << 20):
        pieces += 1
    assert pieces > 1
    assert not backend.kv_touch_ahead(1024, 2 << 20)


def test_without_memory_for_the_previous_layout_either_the_engine_ends(
    backend: LlamaBackend, memory_for: dict[str, int]
) -> None:
    memory_for["cells"] = 0
    with pytest.raises(BackendError, match="neither the new KV layout nor the previous one"):
        backend.kv_relayout(Layout(0, 4096), [])
