"""The engine loop on the real model: each reply is a true greedy decode of its own prompt, whatever the batch.

Greedy replies are computed again alone with teacher forcing (``support/teacher_forcing.py``). A batch of another size
rounds differently, so another token may win a near tie. ``NOISE`` bounds by how much the best logit may be above the
chosen token's: 0.36 was measured, and over 5 for a reply to another prompt.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from loop_replies import Replies
from starter_backend import load_starter
from tailrace.engine.backends.llama import LlamaBackend, memory_budget
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.build import cpu_tiers
from tailrace.engine.kv_cache.layout import Layout

NOISE = 0.6

_TASKS = (
    "Write about number",
    "Tell a story of the year",
    "List facts about chapter",
    "Explain theorem number",
    "Write python function",
    "Compose poem",
    "Describe city",
    "Give recipe",
)


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaBackend]:
    backend = load_starter()
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: LlamaBackend) -> LlamaBackend:
    loaded.reset()
    return loaded


@pytest.mark.skipif(not cpu_tiers(), reason="only the kernels repack weights, and this CPU can't run them")
@pytest.mark.parametrize(("available", "copied"), [(120_000_000, False), (150_000_000, True)])
def test_weights_are_repacked_where_they_take_at_most_three_quarters_of_the_available_memory(
    monkeypatch: pytest.MonkeyPatch, available: int, copied: bool
) -> None:
    monkeypatch.setattr(memory_budget, "available_memory", lambda: available)
    backend = load_starter()
    assert backend.repacked_bytes == 0
    backend.warm_up()
    assert (backend.repacked_bytes > 90_000_000) == copied
    backend.close()
    assert backend.repacked_bytes == 0


def test_eight_sequences_that_start_and_end_are_each_a_true_greedy_decode(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    for number, task in enumerate(_TASKS):
        replies.ask(number, f"{task} {number}.", max_tokens=24 + 8 * number)
        replies.step()
    for number, task in enumerate(_TASKS, 8):
        replies.ask(number, f"{task} {number}.")
        replies.step()
    replies.finish()
    assert set(replies.finished) == set(range(16))
    assert replies.worst_shortfall() < NOISE


def test_the_measure_detects_a_reply_to_another_prompt(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    replies.ask(1, "Write a poem about the sea.")
    replies.ask(2, "Write a python function that sorts a list.")
    replies.finish()
    replies.tokens[1], replies.tokens[2] = replies.tokens[2], replies.tokens[1]
    assert replies.worst_shortfall() > 5 * NOISE


def test_a_second_turn_reuses_the_first_and_is_true(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    replies.ask(1, "Name three rivers of Europe and say a sentence about each of them.")
    replies.finish()
    replies.ask_next(2, 1, "Which is the longest?")
    replies.finish()
    assert replies.cached[2] >= len(replies.prompts[1])
    assert replies.worst_shortfall() < NOISE


def test_an_offloaded_conversation_comes_back_true(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    text = "List the seasons and what people do in each of them."
    replies.ask(1, text)
    replies.finish()
    for number in range(2, 6):
        replies.ask(number, f"{_TASKS[number]} {number}.", max_tokens=40)
    for _ in range(10):
        replies.step()
    assert replies.loop.heartbeat().kv_cells_used < sum(len(replies.prompts[n]) + 20 for n in range(2, 6))
    replies.ask_next(6, 1, "Go on.")
    replies.finish()
    assert replies.cached[6] >= len(replies.prompts[1])
    assert replies.worst_shortfall() < NOISE


def test_equal_prompts_share_a_prefix_and_are_true(backend: LlamaBackend) -> None:
    replies = Replies(backend)
    text = "Explain in detail how a bicycle works. " * 12
    for identity in range(4):
        replies.ask(identity, text)
    replies.finish()
    assert all(replies.cached[identity] > 64 for identity in (1, 2, 3))
    assert replies.worst_shortfall() < NOISE


def test_a_cache_that_is_too_small_pauses_sequences_and_fails_none() -> None:
    small = load_starter(ctx=512, kv_tokens=512)
    try:
        replies = Replies(small)
        for number, task in enumerate(_TASKS[:4]):
            replies.ask(number, f"{task} {number}.", max_tokens=250)
        replies.finish()
        assert replies.loop.heartbeat().counters.preemptions > 0
        assert {identity: len(tokens) for identity, tokens in replies.tokens.items()} != {}
        assert set(replies.finished) == set(range(4))
        assert replies.worst_shortfall() < NOISE
    finally:
        small.close()


def test_another_layout_gives_the_same_tokens(backend: LlamaBackend) -> None:
    texts: list[list[int]] = []
    for layout in (None, Layout(2, 1024), Layout(0, 4096)):
        replies = Replies(backend)
        replies.ask(1, "Count to ten.", max_tokens=20)
        for _ in range(5):
            replies.step()
        if layout is not None:
            # The accounting and the backend change alike, as the loop does it.
            backend.kv_relayout(layout, replies.loop._cache.relayout(layout).slot_map)
        replies.finish()
        texts.append(replies.tokens[1])
        backend.reset()
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("always_shared", [False, True], ids=["partitioned", "shared"])
def test_the_layout_grows_while_sequences_start_and_end_and_each_is_true(
    backend: LlamaBackend, always_shared: bool
) -> None:
    policy = backend.layout_policy
    backend.layout_policy = replace(policy, always_shared=always_shared)
    backend.kv_relayout(Layout(0, 512) if always_shared else Layout(2, 512), [])
    replies = Replies(backend)
    layouts = set()
    for number, task in enumerate(_TASKS):
        # Long and short prompts and replies, so that gaps and longer partitions occur again and again.
        replies.ask(number, f"{task} {number}. " * (1 + 20 * (number % 4)), max_tokens=10 + 25 * (number % 3))
        for _ in range(6):
            replies.step()
            layouts.add(backend.layout)
    replies.finish()
    backend.layout_policy = policy
    assert len(layouts) > 1
    assert {layout.shared for layout in layouts} == {always_shared}
    assert replies.worst_shortfall() < NOISE


def test_the_layout_is_always_shared_where_attention_reads_only_visible_cells(backend: LlamaBackend) -> None:
    """The kernels count the layers that they computed. Elsewhere the layout is partitioned."""
    assert backend.layout_policy.always_shared == (loader.status() == "on")
    here, them = loader.attention_counts()
    backend.decode([1], [0], [0], [0])
    backend.reset()
    layers = 30
    assert loader.attention_counts() == ((here + layers, them) if backend.layout_policy.always_shared else (0, 0))


@pytest.mark.parametrize("always_shared", [False, True], ids=["partitioned", "shared"])
def test_without_memory_for_a_larger_cache_only_the_long_request_fails(
    backend: LlamaBackend, always_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp makes no context of more than 1,024 cells here, as where the memory isn't there."""
    # Imported before the backend, it would be loaded without the kernels.
    import llama_cpp.llama_cpp as llama

    make = llama.llama_init_from_model
    monkeypatch.setattr(llama, "llama_init_from_model", lambda model, p: None if p.n_ctx > 1024 else make(model, p))
    policy = backend.layout_policy
    monkeypatch.setattr(backend, "layout_policy", replace(policy, always_shared=always_shared))
    backend.kv_relayout(Layout(0, 1024) if always_shared else Layout(2, 512), [])
    replies = Replies(backend)
    for number in range(2):
        replies.ask(number, f"{_TASKS[number]} {number}.", max_tokens=40)
    for _ in range(5):
        replies.step()
    replies.ask(9, "Tell me everything about the sea. " * 150, max_tokens=20)
    replies.finish()
    assert set(replies.finished) == {0, 1}
    assert set(replies.failed) == {9}
    monkeypatch.setattr(llama, "llama_init_from_model", make)
    replies.ask(10, "Tell me everything about the sea. " * 150, max_tokens=20)
    replies.finish()
    assert 10 in replies.finished
    del replies.prompts[9]
    assert replies.worst_shortfall() < NOISE


def test_a_reply_that_reaches_the_context_ends_with_length() -> None:
    small = load_starter(ctx=64, kv_tokens=64)
    try:
        replies = Replies(small)
        replies.ask(1, "Tell me a very long story.", max_tokens=None)
        replies.finish()
        assert replies.finished[1].reason == "length"
        assert len(replies.prompts[1]) + len(replies.tokens[1]) == 64
    finally:
        small.close()


def test_a_process_that_has_loaded_llama_cpp_leaves_no_file_open() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", "import tailrace.engine.backends.llama"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ResourceWarning" not in done.stderr
