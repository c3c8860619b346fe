"""A quantised KV cache on the real model: replies, reuse, layouts, swaps, the disk, draft tokens and embeddings.

Replies are held to teacher forcing over the same cache, as in ``test_engine``. A step and a prompt round alike there,
because each key and value is quantised once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import architectures
from loop_replies import Replies
from simulated_passes import SimulatedSpeculator, memory_bound
from starter_backend import load_starter
from tailrace.engine.backends.base import KVState
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.kv_cache.layout import Layout
from tailrace.engine.speculation.draft_model import DraftModel
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.state_identity import state_identity
from tailrace.errors import ConfigurationError
from tailrace.models.kv_shape import CacheTypes
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings

NOISE = 0.6
Q8_0 = CacheTypes("q8_0", "q8_0")
_TEXT = "The ferry to Lisbon leaves at nine on Monday, at noon on Tuesday, and not at all on Sunday. "


def load(types: CacheTypes = Q8_0, **options: Any) -> LlamaBackend:
    """The starter model with a quantised cache."""
    return load_starter(types, **options)


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaBackend]:
    backend = load()
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: LlamaBackend) -> LlamaBackend:
    loaded.reset()
    return loaded


def read(backend: LlamaBackend, slot: int = 0, text: str = _TEXT) -> list[int]:
    tokens = backend.tokenize(text)
    backend.decode(tokens, list(range(len(tokens))), [slot] * len(tokens), [])
    return tokens


def next_logits(backend: LlamaBackend, slot: int, length: int) -> npt.NDArray[np.float32]:
    logits = np.array(backend.decode([44], [length], [slot], [0])[0])
    backend.kv_truncate(slot, length)
    return logits


def test_own_attention_computes_it_and_the_figures_are_of_the_type(backend: LlamaBackend) -> None:
    before = loader.attention_counts()
    read(backend)
    own, upstream = (after - count for after, count in zip(loader.attention_counts(), before, strict=True))
    if loader.status() == "on":
        assert (own, upstream) == (30, 0)
        assert backend.layout_policy.always_shared
    assert backend.bytes_per_cell == backend.info.cell_bytes == 30 * 3 * 2 * 68
    state = backend.kv_save(0)
    cells = len(backend.tokenize(_TEXT))
    assert backend.bytes_per_cell * cells < state.size < 1.1 * backend.bytes_per_cell * cells + 2000


def test_replies_beside_each_other_are_true_greedy_decodes(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    for number in range(6):
        text = f"Write about number {number}. " * (1 + 8 * (number % 3))
        replies.ask(number, text, max_tokens=12 + 4 * (number % 3))
        replies.step()
    replies.finish()
    assert set(replies.finished) == set(range(6))
    assert replies.worst_shortfall() < NOISE


def test_a_second_turn_reuses_the_first_and_choices_share_their_prompt(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    first = "Name three rivers of Europe and say a sentence about each of them."
    replies.ask(1, first, max_tokens=24)
    replies.finish()
    said = b"".join(backend.vocabulary[token] for token in replies.tokens[1]).decode(errors="replace")
    more = f"{first}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n<|im_start|>user\nWhich is the longest?"
    for identity in (2, 3, 4):
        replies.ask(identity, more, max_tokens=16)
    replies.finish()
    assert all(replies.cached[identity] >= len(replies.prompts[1]) for identity in (2, 3, 4))
    assert replies.worst_shortfall() < NOISE


@pytest.mark.parametrize("layout", [Layout(0, 4096), Layout(4, 512)], ids=["shared", "partitioned"])
def test_a_copy_is_its_source_to_the_last_bit_in_each_layout(backend: LlamaBackend, layout: Layout) -> None:
    length = len(read(backend))
    expected = next_logits(backend, 0, length)
    assert backend.kv_relayout(layout, [(0, 1)]) == []
    assert backend.kv_copy(1, 2, length)
    assert np.allclose(next_logits(backend, 2, length), expected, atol=1e-3)
    assert (next_logits(backend, 1, length) == next_logits(backend, 2, length)).all()


def test_a_state_of_another_type_is_not_restored(backend: LlamaBackend) -> None:
    other = load(CacheTypes("f16", "q8_0"), ctx=512, kv_tokens=512)
    try:
        length = len(read(other))
        state: KVState = other.kv_save(0)
    finally:
        other.close()
    assert not backend.kv_load(3, state, length)
    assert next_logits(backend, 3, 0).size, "the slot is empty and works"


def test_a_cache_that_is_too_small_swaps_sequences_and_fails_none() -> None:
    small = load(ctx=256, kv_tokens=256)
    try:
        replies = Replies(small)
        for number in range(3):
            replies.ask(number, f"Tell a story of the year {1900 + number}.", max_tokens=110)
        replies.finish()
        assert replies.loop.heartbeat().counters.preemptions > 0
        assert set(replies.finished) == set(range(3))
        assert replies.worst_shortfall() < NOISE
    finally:
        small.close()


def test_the_layout_grows_with_its_sequences(backend: LlamaBackend) -> None:
    backend.kv_relayout(Layout(0, 512) if backend.layout_policy.always_shared else Layout(2, 512), [])
    replies, layouts = Replies(backend), set()
    for number in range(3):
        replies.ask(number, f"{_TEXT}{number}. " * (1 + 11 * number), max_tokens=12)
        for _ in range(4):
            replies.step()
            layouts.add(backend.layout)
    replies.finish()
    assert len(layouts) > 1
    assert replies.worst_shortfall() < NOISE


def test_a_file_of_the_disk_tier_comes_back_after_a_restart(backend: LlamaBackend, tmp_path: Path) -> None:
    disk = DiskOptions(tmp_path, 50_000_000)
    first = Replies(backend, disk=disk)
    first.ask(1, _TEXT * 8, max_tokens=8)
    first.finish()
    count, size = first.loop._executor.save(time.monotonic() + 60)
    assert count == 1
    length = len(first.prompts[1])
    assert size < 1.2 * (length + 8) * backend.bytes_per_cell
    backend.reset()
    second = Replies(backend, disk=disk)
    second.ask(1, _TEXT * 8, max_tokens=8)
    second.finish()
    second.loop.close()
    assert second.cached[1] >= length - 1
    assert second.worst_shortfall() < NOISE


@pytest.mark.skipif(not cpu_tiers(), reason="without our kernels rounding decides ties")
@pytest.mark.parametrize("source", ["lookup", "draft"])
def test_a_reply_is_the_same_with_draft_tokens_and_without(backend: LlamaBackend, source: str) -> None:
    prompts = [f"Repeat the following text word for word:\n\n{_TEXT * 3}", "Write a poem about the sea."]

    def tokens(drafting: LlamaBackend | None) -> tuple[dict[int, list[int]], int]:
        backend.reset()
        drafter = LookupDrafter() if drafting is None else DraftModel(drafting, backend.vocabulary)
        speculator = SimulatedSpeculator(drafter, memory_bound) if drafted else None
        replies = Replies(backend, speculator=speculator)
        for number, text in enumerate(prompts):
            replies.ask(number, text, max_tokens=48)
            replies.finish()
        return replies.tokens, replies.loop.heartbeat().counters.accepted_tokens

    drafted = False
    plain, _ = tokens(None)
    drafted = True
    if source == "lookup":
        same, accepted = tokens(None)
    else:
        drafting = load(ctx=512, kv_tokens=1024)
        try:
            same, accepted = tokens(drafting)
        finally:
            drafting.close()
    assert accepted > 30
    assert same == plain


def test_texts_that_are_read_have_the_same_types(backend: LlamaBackend) -> None:
    context = backend.embedding_context
    assert context is not None
    tokens = backend.tokenize(_TEXT)
    context.reserve(len(tokens))
    before = loader.attention_counts()
    scores = np.array(context.score(tokens, list(range(len(tokens))), [0] * len(tokens)))
    context.close()
    if loader.status() == "on":
        assert loader.attention_counts() == (before[0] + 30, before[1])
    own = np.array(backend.decode(tokens, list(range(len(tokens))), [0] * len(tokens), list(range(len(tokens)))))
    assert np.abs(scores - own).max() < NOISE


def test_states_of_each_type_have_a_folder_of_their_own(backend: LlamaBackend) -> None:
    model = locate_model("smollm2-135m").path
    types = [("f16", "f16"), ("q8_0", "f16"), ("f16", "q8_0"), ("q8_0", "q8_0"), ("q4_0", "q4_0")]
    found = {state_identity(model, Settings(cache_type_k=k, cache_type_v=v), backend) for k, v in types}  # type: ignore[arg-type]
    assert len(found) == len(types)


@pytest.mark.parametrize("setting", ["cache_type_k", "cache_type_v"])
def test_heads_that_cannot_be_cut_into_blocks_are_refused_at_the_start(tmp_path: Path, setting: str) -> None:
    path = architectures.tiny_model("dense", tmp_path, head=16, kv_heads=16)
    types = CacheTypes("q8_0", "f16") if setting == "cache_type_k" else CacheTypes("f16", "q8_0")
    with pytest.raises(ConfigurationError, match=f"{setting} can't be q8_0 .* heads have 16 numbers"):
        load(types, path=path)
    command = [str(Path(sys.executable).with_name("tailrace")), "serve", str(path), "--port", "0"]
    served = subprocess.run(
        [*command, f"--{setting.replace('_', '-')}", "q8_0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert served.returncode != 0
    assert f"{setting} can't be q8_0" in served.stderr


def test_attention_with_a_softcap_and_sliding_windows_is_computed_by_the_kernels(tmp_path: Path) -> None:
    """gemma2 has both, and small heads."""
    tiny = load(path=architectures.tiny_model("sliding", tmp_path), ctx=512, kv_tokens=1024)
    try:
        own, upstream = loader.attention_counts()
        tiny.decode([5, 6, 7], [0, 1, 2], [0, 0, 0], [2])
        found = loader.attention_counts()
        assert found[0] > own
        assert found[1] == upstream
        assert tiny.layout_policy.always_shared
    finally:
        tiny.close()
