"""KV cache on a worker: prefixes, saved states, speculation and cancellation are as on one process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from loop_replies import Replies
from placed_backend import load_placed
from tailrace.engine.backends.llama import LlamaBackend
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from teacher_forcing import shortfalls
from worker_process import WorkerProcess

#: See ``process/test_engine.py``.
NOISE = 0.6
_PROMPT = [40, 41, 42, 43]


@pytest.fixture(scope="module", params=["some layers", "all layers"])
def loaded(request: pytest.FixtureRequest, workers: tuple[WorkerProcess, WorkerProcess]) -> Iterator[LlamaBackend]:
    endpoint = workers[0].endpoint
    layers = "10-29" if request.param == "some layers" else "0-29"
    backend = load_placed([endpoint], placement={"layers": {layers: endpoint}, "output": endpoint})
    yield backend
    backend.close()


@pytest.fixture
def backend(loaded: LlamaBackend) -> LlamaBackend:
    loaded.reset()
    return loaded


def true(alone: LlamaBackend, replies: Replies) -> bool:
    """Whether each reply is a greedy decode of one process."""
    found = []
    for number, prompt in replies.prompts.items():
        alone.reset()
        found.append(max(shortfalls(alone, prompt, replies.tokens[number])))
    return max(found) < NOISE


def test_sequences_that_start_and_end_are_true(backend: LlamaBackend, alone: LlamaBackend) -> None:
    replies = Replies(backend)
    for number in range(6):
        replies.ask(number, f"Explain theorem number {number}.", max_tokens=12 + 4 * number)
        replies.step()
    replies.finish()
    assert set(replies.finished) == set(range(6))
    assert true(alone, replies)


def test_a_second_turn_reuses_the_first(backend: LlamaBackend, alone: LlamaBackend) -> None:
    replies = Replies(backend)
    replies.ask(1, "Name three rivers of Europe and say a sentence about each of them.")
    replies.finish()
    replies.ask_next(2, 1, "Which is the longest?")
    replies.finish()
    assert replies.cached[2] >= len(replies.prompts[1])
    assert true(alone, replies)


def test_a_conversation_comes_back_from_host_memory(backend: LlamaBackend, alone: LlamaBackend) -> None:
    replies = Replies(backend)
    text = "List the seasons and what people do in each of them."
    replies.ask(1, text)
    replies.finish()
    for number in range(2, 8):
        replies.ask(number, f"Describe city {number}.", max_tokens=24)
    replies.finish()
    replies.ask_next(9, 1, "Go on.")
    replies.finish()
    assert replies.cached[9] >= len(replies.prompts[1])
    assert true(alone, replies)


def test_states_are_saved_and_restored(backend: LlamaBackend) -> None:
    """A saved state has the slot's cells to the last bit, on whichever device they are."""
    backend.decode(_PROMPT, list(range(4)), [1] * 4, [])
    expected = backend.decode([44], [4], [1], [0]).copy()
    state = backend.kv_save(1)
    backend.reset()
    assert backend.kv_load(2, state, 4)
    assert np.array_equal(backend.decode([44], [4], [2], [0]), expected)


def test_the_cache_keeps_its_layout(backend: LlamaBackend) -> None:
    """Another layout would bring every state from the worker and back."""
    policy = backend.layout_policy
    assert backend.layout == policy.initial() == policy.choose([5, 900, 700], backend.layout)
    assert backend.layout.shared
    assert backend.layout.cells == 4 * 1024


def test_drafted_tokens_are_checked_and_dropped(backend: LlamaBackend, alone: LlamaBackend) -> None:
    text = "The lighthouse at Cape Merrow was built in 1874 by two brothers from Lisbon."
    speculator = Speculator(LookupDrafter(), n_draft_max=16)
    replies = Replies(backend, speculator=speculator)
    replies.ask(1, f"Repeat the following text word for word, three times:\n\n{text} {text}", max_tokens=64)
    replies.finish()
    assert replies.loop.heartbeat().counters.draft_tokens > 0
    assert true(alone, replies)


def test_a_cancelled_reply_leaves_its_cells_to_others(backend: LlamaBackend, alone: LlamaBackend) -> None:
    replies = Replies(backend)
    replies.ask(1, "Write a long story about a lighthouse.", max_tokens=400)
    replies.ask(2, "List ten facts about Mars.", max_tokens=24)
    for _ in range(8):
        replies.step()
    replies.loop.inbox.put(1)
    replies.finish()
    replies.ask(3, "Describe a city.", max_tokens=24)
    replies.finish()
    assert {2, 3} <= set(replies.finished)
    del replies.prompts[1]
    assert true(alone, replies)
