"""States of the real model leave partitions and come back in pieces, beside a reply that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from loop_replies import Replies
from tailrace.engine.backends.base import KVState, StateMove
from tailrace.engine.backends.llama import LlamaBackend, state_copies
from tailrace.engine.kernels import loader
from tailrace.engine.load import load_llama
from tailrace.engine.scheduler import prefill_budget
from tailrace.models.model_reference import locate_model
from tailrace.settings import Settings

#: Rounding in batches of several widths. Another prompt's reply is several times as far.
NOISE = 0.6

_OPENING = "Tell the story of a ship that sails around the world, and of all ports that it sees. " * 12
_OTHERS = ("Which numbers are prime? " * 30, "How does one bake bread? " * 30, "What is a tide? " * 40)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlamaBackend]:
    """A backend with partitions, as for a model whose attention upstream computes. One piece follows a step."""
    monkeypatch.setattr(prefill_budget, "_MOVE_PART", 0.0)
    monkeypatch.setattr(prefill_budget, "_AWAITED_MOVE_PART", 0.0)
    backend = load_llama(locate_model("smollm2-135m").path, Settings(ctx=2048, parallel=2, kv_tokens=8192, threads=2))
    if loader.status() != "on":
        backend.close()
        pytest.skip("without the kernels states move whole")
    backend.layout_policy = replace(backend.layout_policy, always_shared=False, reserved_cells=0)
    backend._context.reserved_cells = 0
    backend._context.replace(backend.layout_policy.initial())
    monkeypatch.setattr(state_copies, "PIECE_BYTES", 30 * backend.bytes_per_cell)
    backend.piece_tokens = backend._context.piece_tokens
    yield backend
    backend.close()


def _converse(backend: LlamaBackend) -> Replies:
    """A conversation, then other requests in its slot, then its second turn: all beside a long reply."""
    replies = Replies(backend)
    replies.ask(2, "Count up from one in words.", max_tokens=440, ignore_eos=True)
    while not replies.tokens[2]:
        replies.step()
    replies.ask(1, _OPENING)
    while 1 not in replies.finished:
        replies.step()
    for identity, text in enumerate(_OTHERS, 3):
        replies.ask(identity, text, max_tokens=4)
        while identity not in replies.finished:
            replies.step()
    replies.ask_next(9, 1, "Go on.")
    while 9 not in replies.finished:
        replies.step()
    assert 2 not in replies.finished, "all of it was beside this reply"
    replies.finish()
    return replies


def test_a_conversation_comes_back_into_its_partition_beside_a_reply(
    backend: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[int] = []  #: bytes of states that moved by one call
    begun: list[StateMove] = []

    def save(slot: int) -> KVState:
        state = LlamaBackend.kv_save(backend, slot)
        whole.append(state.size)
        return state

    def load(slot: int, state: KVState, length: int) -> bool:
        whole.append(state.size)
        return LlamaBackend.kv_load(backend, slot, state, length)

    def begin_load(slot: int, state: KVState, length: int) -> StateMove | None:
        move = LlamaBackend.kv_begin_load(backend, slot, state, length)
        assert move is not None
        begun.append(move)
        return move

    with monkeypatch.context() as patched:
        patched.setattr(backend, "kv_save", save)
        patched.setattr(backend, "kv_load", load)
        patched.setattr(backend, "kv_begin_load", begin_load)
        replies = _converse(backend)
    assert not backend.layout.shared
    assert begun
    assert whole == []
    assert replies.cached[9] > 200
    assert replies.worst_shortfall() < NOISE
