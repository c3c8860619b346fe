"""Models of every kind of memory in llama.cpp itself: what is reported of their prompts is what was computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from architectures import ARCHITECTURES, tiny_model
from prompt_accounting import REPLY, Account
from tailrace.engine.backends.llama.backend import LlamaBackend
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.load import load_llama
from tailrace.settings import Settings


@pytest.fixture(params=ARCHITECTURES)
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def backend(kind: str, tmp_path: Path) -> Iterator[LlamaBackend]:
    backend = load_llama(tiny_model(kind, tmp_path), Settings(ctx=1024, parallel=4, threads=1))
    yield backend
    backend.close()


def test_usage_and_metrics_equal_the_computed_tokens(backend: LlamaBackend, kind: str) -> None:
    assert backend.info.architecture == ARCHITECTURES[kind]
    account = Account(backend)
    first = [1, *(3 + place % 200 for place in range(300))]
    other = [*first[:250], *range(5, 60)]
    account.ask(first)
    (again,) = account.ask(first)
    (branch,) = account.ask(other)
    (whole,) = account.ask([*first, *account.said[0], 9, 8, 7])
    account.ask(*([*first[:200], *range(10 + turn, 60)] for turn in range(4)))
    if kind in ("dense", "sliding"):
        assert (again, branch, whole) == (len(first) - 1, 250, len(first) + REPLY - 1)
    else:
        # The prompt has no borders between messages, so there is one checkpoint, at its end.
        assert (again, branch) == (len(first) - 4, 0)


def test_the_next_turn_after_an_unload_computes_its_new_tokens_only(kind: str, tmp_path: Path) -> None:
    path, settings = tiny_model(kind, tmp_path), Settings(ctx=1024, parallel=4, threads=1)
    first = [1, *(3 + place % 200 for place in range(300))]
    for turn in range(3):
        backend = load_llama(path, settings)
        disk = DiskOptions(tmp_path / "kv", 100_000_000, backend.rollback)
        account = Account(backend, disk)
        (cached,) = account.ask(first)
        # The state has each token but the reply's last one.
        assert cached == (len(first) - 4 if turn else 0)
        assert account.save() == 1
        assert len(list((tmp_path / "kv").glob("*.kv"))) == 1, "a conversation's next turn replaces the one before"
        first = [*first, *account.said[0], 9, 8, 7]
        backend.close()
