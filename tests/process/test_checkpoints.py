"""Prompts of each kind of memory in llama.cpp itself go on from what is known, and their replies are those of a model
that reads everything.

A model that goes on computes its prompt in other pieces, which may round differently. So replies are compared by
reading them back (``teacher_forcing``): each token has to be nearly as good as the best one. A wrong state does far
more to them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from architectures import ARCHITECTURES, tiny_model
from prompt_accounting import REPLY, Account
from tailrace.engine.backends.base import WHOLE, Logits
from tailrace.engine.backends.llama.backend import LlamaBackend
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.load import load_llama
from tailrace.settings import Settings
from teacher_forcing import shortfalls

#: By how much a token's logit may be below the best one. Logits have a deviation of about one.
_TOLERANCE = 0.02
#: Tokens after which a message ends: control tokens of the byte vocabulary.
_END = 2
_KINDS = [kind for kind in ARCHITECTURES if kind != "dense"]


@pytest.fixture(scope="module", params=_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(kind, tmp_path_factory.mktemp("models"))


@pytest.fixture
def backend(model: Path) -> Iterator[LlamaBackend]:
    backend = _load(model)
    yield backend
    backend.close()


def _load(model: Path, *, ctx: int = 1024, parallel: int = 4, kv_tokens: int = 0) -> LlamaBackend:
    return load_llama(model, Settings(ctx=ctx, parallel=parallel, kv_tokens=kv_tokens, threads=1))


def _message(seed: int, length: int) -> list[int]:
    random = np.random.default_rng(seed)
    return [*(3 + random.integers(0, 250, length)).tolist(), _END]


SYSTEM, QUESTION, OTHER = _message(1, 150), _message(2, 120), _message(3, 100)


def _check(backend: LlamaBackend, prompt: list[int], reply: list[int]) -> None:
    """Read the reply back; the backend's slots are empty."""
    assert len(reply) == REPLY
    assert max(shortfalls(backend, prompt, reply)) < _TOLERANCE


class Talk:
    """Asks prompts of a backend and remembers them."""

    def __init__(self, backend: LlamaBackend, disk: DiskOptions | None = None) -> None:
        self.account = Account(backend, disk)
        self.asked: list[list[int]] = []

    def ask(self, *prompts: list[int]) -> list[int]:
        self.asked += prompts
        return self.account.ask(*prompts)

    def said(self, number: int = -1) -> list[int]:
        return self.account.said[number % len(self.asked)]

    def check(self, model: Path) -> None:
        """Read all replies back."""
        backend = _load(model)
        for number, prompt in enumerate(self.asked):
            _check(backend, prompt, self.account.said[number])
        backend.close()


def test_a_slot_that_goes_back_computes_the_same_to_the_last_bit(backend: LlamaBackend) -> None:
    tokens = [3 + place % 200 for place in range(300)]
    needs_checkpoints = backend.rollback.by_checkpoints

    def decode(start: int, end: int, slot: int) -> Logits:
        positions = list(range(start, end))
        return backend.decode(tokens[start:end], positions, [slot] * len(positions), [len(positions) - 1]).copy()

    def goes_back(slot: int) -> bool:
        return backend.kv_rollback(slot, checkpoint, 200) if needs_checkpoints else backend.kv_truncate(slot, 200)

    decode(0, 200, 0)
    checkpoint = backend.kv_checkpoint(0) if needs_checkpoints else np.empty(0, np.uint8)
    if needs_checkpoints:
        larger = np.full(checkpoint.size + 1000, 7, np.uint8)
        reused = backend.kv_checkpoint(0, larger)
        assert np.shares_memory(reused, larger)
        assert np.array_equal(reused, checkpoint), "in memory that is a little larger"
    expected = decode(200, 300, 0)
    assert goes_back(0)
    assert np.array_equal(decode(200, 300, 0), expected), "in its slot"
    assert backend.kv_copy(0, 1, WHOLE)
    assert backend.kv_load(2, backend.kv_save(0), WHOLE)
    for slot, how in ((1, "copied"), (2, "loaded")):
        floor = backend.kv_floor(slot)
        assert goes_back(slot) == (needs_checkpoints or floor <= 200)
        if needs_checkpoints or floor <= 200:
            assert np.array_equal(decode(200, 300, slot), expected), how
    assert backend.kv_floor(0) == (300 if needs_checkpoints else 0), "copies change nothing in their source"


def test_a_conversation_is_never_read_twice(backend: LlamaBackend, model: Path) -> None:
    talk = Talk(backend)
    first = [*SYSTEM, *QUESTION]
    assert talk.ask(first) == [0]
    reply = talk.said()
    assert talk.ask(first)[0] >= len(first) - 5, "made anew"
    turn = [*first, *talk.said(), _END, *OTHER]
    assert talk.ask(turn)[0] >= len(first) + REPLY - 1, "it goes on"
    edited = [*first, *reply, _END, *_message(4, 90)]
    assert talk.ask(edited)[0] >= len(first) - 5, "its last message is edited"
    without_thoughts = [*first, *reply[5:], _END, *_message(5, 80)]
    assert talk.ask(without_thoughts)[0] >= len(first) - 5
    assert talk.ask([*SYSTEM, *_message(6, 110)])[0] >= len(SYSTEM) - 2, "another chat"
    (branch,) = talk.ask(turn)
    # The branch is in host memory. The state of a window can be cut by one token alone.
    assert branch >= len(SYSTEM) if backend.rollback.window else branch >= len(first) - 5, "the first branch, anew"
    copied = [*SYSTEM, *_message(7, 140)]
    # The last tokens of a prompt are not waited for.
    assert sorted(talk.ask(copied, copied, copied))[1] >= len(copied) - 40, "copies"
    talk.check(model)


def test_prefixes_come_back_from_host_memory(model: Path) -> None:
    backend = _load(model, parallel=1, kv_tokens=1024)
    talk = Talk(backend)
    first, second = [*SYSTEM, *QUESTION], [*_message(8, 300), *OTHER]
    talk.ask(first)
    turn = [*first, *talk.said(), _END, *OTHER]
    talk.ask(second)
    assert talk.ask(turn)[0] == len(first) + REPLY - 1
    talk.ask(second)
    (cached,) = talk.ask([*first, *talk.said(0), _END, *_message(9, 60)])
    # The state of a window can be cut by one token alone.
    assert cached == 0 if backend.rollback.window else cached >= len(first) - 5
    backend.close()
    talk.check(model)


def test_prefixes_come_back_from_the_disk(model: Path, tmp_path: Path) -> None:
    first = [*SYSTEM, *QUESTION]
    for start in range(2):
        backend = _load(model)
        talk = Talk(backend, DiskOptions(tmp_path, 100_000_000, backend.rollback))
        if not start:
            talk.ask(first)
            said = talk.said()
        else:
            (cached,) = talk.ask([*first, *said[4:], _END, *OTHER])
            assert cached == 0 if backend.rollback.window else cached >= len(first) - 5, "without its thoughts"
            if not backend.rollback.window:
                assert talk.ask([*SYSTEM, *_message(6, 110)])[0] >= len(SYSTEM) - 2, "another chat"
        talk.account.save()
        backend.close()
        talk.check(model)
        gc.collect()


def test_replies_that_are_paused_and_moved_go_on(model: Path) -> None:
    """There are cells for two of the four replies, and the layout changes."""
    backend = _load(model, ctx=512, kv_tokens=768)
    talk = Talk(backend)
    prompts = [[*SYSTEM, *_message(20 + number, 150 + 20 * number)] for number in range(4)]
    for prompt in prompts:
        talk.asked.append(prompt)
    talk.account.run(*prompts)
    backend.close()
    talk.check(model)
