"""The prefix cache's disk tier, on its own and behind the loop."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.kv_cache.disk_tier import MIN_PREFIX, DiskOptions, DiskTier, Fetched
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.prompt_text import PromptText
from tailrace.protocol import GenerationParams, Sampling, Submit


class Tier:
    """A tier and the states that it delivers."""

    def __init__(self, folder: Path, limit: int = 10_000) -> None:
        self.delivered: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        self.tier = DiskTier(folder, limit, self.delivered.put)

    def fetch(self, tokens: list[int]) -> Fetched:
        found = self.tier.find(tokens)
        assert found is not None
        self.tier.fetch(found[0], 7)
        return self.delivered.get(timeout=10)


def _state(seed: int, size: int = 3000) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def _tokens(start: int, length: int = 100) -> list[int]:
    return list(range(start, start + length))


def test_a_written_state_is_found_by_its_prefix_also_by_a_later_run(tmp_path: Path) -> None:
    first = Tier(tmp_path)
    first.tier.write(_tokens(0), _state(1))
    first.tier.write(_tokens(500), _state(2))
    first.tier.close()
    again = Tier(tmp_path)
    assert again.tier.find(_tokens(900)) is None
    found = again.tier.find([*_tokens(0, 80), 9, 9])
    assert found is not None
    assert found[1] == 80
    fetched = again.fetch([*_tokens(500), 3])
    assert (fetched.id, fetched.tokens) == (7, _tokens(500))
    assert fetched.state is not None
    assert np.array_equal(fetched.state, _state(2))
    again.tier.close()


def test_the_least_recently_used_file_is_deleted_first(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit=7000)
    for number in (0, 1):
        tier.tier.write(_tokens(1000 * number), _state(number))
    tier.fetch(_tokens(0))
    tier.tier.write(_tokens(2000), _state(2))
    assert tier.tier.used_bytes <= 7000
    assert [tier.tier.find(_tokens(1000 * number)) is not None for number in range(3)] == [True, False, True]
    tier.tier.close()
    assert len(list(tmp_path.glob("*.kv"))) == 2


def test_a_state_that_is_too_short_or_too_large_is_not_written(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit=1000)
    tier.tier.write(_tokens(0, MIN_PREFIX - 1), _state(1, 10))
    tier.tier.write(_tokens(0), _state(1, 1001))
    tier.tier.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "other"])
def test_a_damaged_file_counts_as_missing_and_is_deleted(tmp_path: Path, damage: str) -> None:
    tier = Tier(tmp_path)
    tier.tier.write(_tokens(0), _state(1))
    tier.tier.close()
    (path,) = tmp_path.glob("*.kv")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[:-9]), "other": b"nothing of the sort"}[damage])
    again = Tier(tmp_path)
    if again.tier.find(_tokens(0)) is not None:
        assert again.fetch(_tokens(0)).state is None
    again.tier.close()
    assert not path.exists()


def test_only_this_user_can_read_the_files(tmp_path: Path) -> None:
    tier = Tier(tmp_path / "kv")
    tier.tier.write(_tokens(0), _state(1))
    tier.tier.close()
    (path,) = (tmp_path / "kv").glob("*.kv")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_file_that_can_not_be_deleted_keeps_no_sequence_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = Tier(tmp_path, limit=7000)

    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(f"{path} is not yours")

    monkeypatch.setattr(Path, "unlink", fail)
    for number in range(3):
        tier.tier.write(_tokens(1000 * number), _state(number))
    assert tier.tier.find(_tokens(0)) is None, "it was evicted, whatever became of its file"
    assert tier.fetch(_tokens(2000)).state is not None
    tier.tier.close()


def test_a_sequence_gets_its_answer_whatever_goes_wrong_while_its_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = Tier(tmp_path)
    tier.tier.write(_tokens(0), _state(1))

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("tailrace.engine.kv_cache.disk_tier.allocate_state", fail)
        assert tier.fetch(_tokens(0)).state is None
    assert tier.fetch(_tokens(0)).state is not None, "the thread lives"
    tier.tier.close()


def test_a_damaged_file_that_can_not_be_deleted_does_not_keep_the_engine_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.kv").write_bytes(b"nothing of the sort")

    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(f"{path} is not yours")

    monkeypatch.setattr(Path, "unlink", fail)
    tier = Tier(tmp_path)
    assert tier.tier.used_bytes == 0
    tier.tier.close()


class Talk:
    """A loop with so little host memory for prefixes that they go to the disk."""

    def __init__(self, folder: Path) -> None:
        self.backend = FakeBackend(ctx=512, parallel=1, kv_tokens=512, batch=64)
        disk = DiskOptions(folder, 1_000_000)
        self.loop = EngineLoop(self.backend, prefill_chunk=64, step_seconds=1.0, host_cache_tokens=200, disk=disk)

    def ask(self, identity: int, text: str) -> tuple[bytes, int]:
        """The reply, and how many of the prompt's tokens were cached."""
        sequence = prepare_sequence(
            self.backend,
            Submit(id=identity, prompt=PromptText(text), params=GenerationParams(sampling=Sampling(temperature=0.0))),
        )
        assert isinstance(sequence, Sequence)
        self.loop.inbox.put(sequence)
        said, cached = b"", 0
        while self.loop.has_work:
            assert self.loop.take(0.05)
            if (step := self.loop.step()) is not None:
                said += bytes(step.tokens)
                cached = sum(started.cached_tokens for started in step.started) or cached
        return said, cached


def test_a_conversation_comes_back_from_the_disk_also_after_a_restart(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    long = "a conversation that is long enough to be worth it. " * 3
    assert talk.ask(1, f"{long}<say>one</say>") == (b"one", 0)
    for number in range(2, 6):
        talk.ask(number, f"{number} is quite another conversation, and long too. " * 3 + "<say>x</say>")
    said, cached = talk.ask(6, f"{long}<say>two</say>")
    assert said == b"two"
    assert cached >= len(long)
    for number in range(7, 10):
        talk.ask(number, f"{number} is quite another conversation, and long too. " * 3 + "<say>x</say>")
    talk.loop.close()
    again = Talk(tmp_path)
    said, cached = again.ask(1, f"{long}<say>three</say>")
    assert said == b"three"
    assert cached >= len(long)
    again.loop.close()
