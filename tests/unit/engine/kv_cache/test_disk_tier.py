"""The prefix cache's disk tier, on its own and behind the loop."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from disk_states import Tier, random_state, savable, tokens_from
from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.kv_cache.disk_tier import DiskOptions
from tailrace.engine.kv_cache.rollback import Rollback
from tailrace.engine.kv_cache.state_file import PART
from tailrace.engine.kv_cache.state_index import MIN_PREFIX, StateIndex, pack
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.prompt_text import PromptText
from tailrace.protocol import Submit


def test_a_written_state_is_found_by_its_prefix_also_by_a_later_run(tmp_path: Path) -> None:
    first = Tier(tmp_path)
    first.tier.write(tokens_from(0), random_state(1))
    first.tier.write(tokens_from(500), random_state(2))
    first.tier.close()
    again = Tier(tmp_path)
    assert again.tier.find(tokens_from(900)) is None
    assert again.tier.find([*tokens_from(0, 80), 9, 9]) is not None
    fetched = again.fetch([*tokens_from(500), 3])
    assert (fetched.id, fetched.tokens) == (7, tokens_from(500))
    assert fetched.state is not None
    assert np.array_equal(fetched.state, random_state(2))
    again.tier.close()


def test_the_least_recently_used_file_is_deleted_first(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit=7000)
    for number in (0, 1):
        tier.tier.write(tokens_from(1000 * number), random_state(number))
    tier.fetch(tokens_from(0))
    tier.tier.write(tokens_from(2000), random_state(2))
    assert tier.tier.used_bytes <= 7000
    assert [tier.tier.find(tokens_from(1000 * number)) is not None for number in range(3)] == [True, False, True]
    tier.tier.close()
    assert len(list(tmp_path.glob("*.kv"))) == 2


def test_a_state_that_is_too_short_or_too_large_is_not_written(tmp_path: Path) -> None:
    tier = Tier(tmp_path, limit=1000)
    tier.tier.write(tokens_from(0, MIN_PREFIX - 1), random_state(1, 10))
    tier.tier.write(tokens_from(0), random_state(1, 1001))
    tier.tier.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "other"])
def test_a_damaged_file_counts_as_missing_and_is_deleted(tmp_path: Path, damage: str) -> None:
    tier = Tier(tmp_path)
    tier.tier.write(tokens_from(0), random_state(1))
    tier.tier.close()
    (path,) = tmp_path.glob("*.kv")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[:-9]), "other": b"nothing of the sort"}[damage])
    again = Tier(tmp_path)
    if again.tier.find(tokens_from(0)) is not None:
        assert again.fetch(tokens_from(0)).state is None
    again.tier.close()
    assert not path.exists()


def test_only_this_user_can_read_the_files(tmp_path: Path) -> None:
    tier = Tier(tmp_path / "kv")
    tier.tier.write(tokens_from(0), random_state(1))
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
        tier.tier.write(tokens_from(1000 * number), random_state(number))
    assert tier.tier.find(tokens_from(0)) is None, "it was evicted, whatever became of its file"
    assert tier.fetch(tokens_from(2000)).state is not None
    tier.tier.close()


def test_a_sequence_gets_its_answer_whatever_goes_wrong_while_its_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = Tier(tmp_path)
    tier.tier.write(tokens_from(0), random_state(1))

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("tailrace.engine.kv_cache.state_file.allocate_state", fail)
        assert tier.fetch(tokens_from(0)).state is None
    assert tier.fetch(tokens_from(0)).state is not None, "the thread lives"
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


def test_states_of_any_model_are_deleted_after_a_month_without_use(tmp_path: Path) -> None:
    old, mine = tmp_path / ("a" * 20), tmp_path / ("b" * 20)
    for folder in (old, mine, tmp_path / "other"):
        tier = Tier(folder)
        tier.tier.write(tokens_from(0), random_state(1))
        tier.tier.close()
        for path in folder.iterdir():
            os.utime(path, (0, 0))
    tier = Tier(mine)
    tier.tier.write(tokens_from(500), random_state(2))
    tier.tier.close()
    assert not old.exists()
    assert len(list(mine.iterdir())) == 1
    assert len(list((tmp_path / "other").iterdir())) == 1, "a folder of another kind"


def test_the_file_that_saves_most_is_read_and_none_that_saves_little(tmp_path: Path) -> None:
    index = StateIndex()
    for name, length in (("long", 9000), ("short", 500)):
        index.add(name, pack([*tokens_from(0, 400), *tokens_from(10_000 * len(name), length - 400)]), 1)
    assert index.find([*tokens_from(0, 400), 7], known=0) == "short", "of equal prefixes the smaller file"
    assert index.find([*tokens_from(0, 400), 7], known=390) is None, "the rest is computed sooner"
    assert index.find([*tokens_from(0, 400), *tokens_from(40_000, 8600), 7], known=0) == "long"
    assert index.find([*tokens_from(0, 20), 7], known=0) is None, "20 tokens are computed sooner than 500 are read"
    whole_only = StateIndex(Rollback(checkpoint_bytes=1))
    whole_only.add("short", pack(tokens_from(0, 500)), 1)
    assert whole_only.find(tokens_from(0, 499), known=0) is None
    assert whole_only.find(tokens_from(0, 501), known=0) == "short"


def test_a_state_larger_than_host_memory_comes_back_for_its_sequence_and_goes(tmp_path: Path) -> None:
    talk = Talk(tmp_path)
    long = "a conversation that is long enough to be worth it. " * 6
    talk.ask(1, f"{long}<say>one</say>")
    assert talk.loop.cache.executor.save(time.monotonic() + 60) != (0, 0)
    again = Talk(tmp_path)
    said, cached = again.ask(1, f"{long}<say>two</say>")
    assert said == b"two"
    assert cached >= len(long) > 200, "host memory has 200 tokens"
    assert list(again.loop.cache.accounting.prefix_store.items()) == []
    again.loop.close()


def test_a_folder_that_is_deleted_while_its_model_is_loaded_is_made_again(tmp_path: Path) -> None:
    mine, other = tmp_path / ("a" * 20), tmp_path / ("b" * 20)
    tier = Tier(mine)
    Tier(other).tier.close()
    assert mine.exists(), "another model's engine deletes no folder that is in use"
    mine.rmdir()
    tier.tier.write(tokens_from(0), random_state(1))
    tier.tier.close()
    for path in mine.iterdir():
        path.unlink()
    mine.rmdir()
    assert tier.tier.save([savable(500)], deadline=time.monotonic() + 60)[0] == 1
    assert len(list(mine.iterdir())) == 1


def test_a_model_is_served_where_the_folder_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    talk = Talk(tmp_path / "file" / "kv")
    assert talk.ask(1, "a conversation that is long enough. " * 3 + "<say>one</say>") == (b"one", 0)
    assert talk.loop.cache.executor.save(time.monotonic() + 60) == (0, 0)
    talk.loop.close()


def test_a_folder_that_another_process_deletes_while_a_file_is_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = Tier(tmp_path / "kv")
    replace, failures = os.replace, ["once"]

    def delete_first(source: Path, target: Path) -> None:
        if failures:
            failures.pop()
            source.unlink()
            source.parent.rmdir()
        replace(source, target)

    monkeypatch.setattr(os, "replace", delete_first)
    tier.tier.write(tokens_from(0), random_state(1))
    assert tier.fetch(tokens_from(0)).state is not None
    tier.tier.close()


def test_a_folder_whose_file_is_renamed_while_it_is_looked_at_is_in_use(
    tmp_path: Path,
) -> None:
    mine, other = tmp_path / ("a" * 20), tmp_path / ("b" * 20)
    mine.mkdir()
    (mine / f"x.kv.1{PART}").symlink_to("gone")  # In the list of names, and gone when its time is read.
    Tier(other).tier.close()
    assert (mine / f"x.kv.1{PART}").is_symlink()


def test_a_state_brings_its_checkpoints_and_is_found_by_them(tmp_path: Path) -> None:
    needs_checkpoints = Rollback(checkpoint_bytes=50)
    first = Tier(tmp_path, rollback=needs_checkpoints)
    carried = ((40, random_state(2, 50)), (70, random_state(3, 50)))
    first.tier.write(tokens_from(0), random_state(1), carried)
    first.tier.close()
    again = Tier(tmp_path, rollback=needs_checkpoints)
    assert again.tier.find([*tokens_from(0, 39), 9]) is None
    assert again.tier.find([*tokens_from(0, 50), 9], known=30) is None, "the checkpoint saves 10 tokens"
    fetched = again.fetch([*tokens_from(0, 80), 9])
    again.tier.close()
    assert fetched.state is not None
    assert np.array_equal(fetched.state, random_state(1))
    assert [length for length, _ in fetched.carried] == [40, 70]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(fetched.carried, carried, strict=True))


def test_a_checkpoint_that_was_changed_damages_its_state(tmp_path: Path) -> None:
    tier = Tier(tmp_path, rollback=Rollback(checkpoint_bytes=50))
    tier.tier.write(tokens_from(0), random_state(1), ((40, random_state(2, 50)),))
    tier.tier.close()
    (path,) = tmp_path.glob("*.kv")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    again = Tier(tmp_path, rollback=Rollback(checkpoint_bytes=50))
    assert again.fetch(tokens_from(0, 101)).state is None
    again.tier.close()


def test_the_state_of_a_window_is_found_by_what_goes_on_alone(tmp_path: Path) -> None:
    index = StateIndex(Rollback(window=50))
    index.add("whole", pack(tokens_from(0, 100)), 1)
    assert index.find([*tokens_from(0, 80), 7], known=0) is None
    assert index.find(tokens_from(0, 101), known=0) == "whole"
    assert index.covers(pack(tokens_from(0, 80))) is None
