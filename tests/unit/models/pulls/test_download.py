"""One file from a server that does everything wrong: cut, slow, changed, endless, without ranges, on a full disk."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from local_pulls import LocalPulls, files_below
from model_files import tiny_gguf
from pull_servers import Behaviour, Content
from tailrace.errors import PullFailed

#: Large enough that the server sends it in many chunks, and no part of it is like another.
MODEL = tiny_gguf(weights=random.Random(1).randbytes(1_000_000))
REPO = "models--org--repo"


@pytest.fixture
def content(pulls: LocalPulls) -> Content:
    return pulls.hub.add("model.gguf", MODEL)


def partial(pulls: LocalPulls, content: Content) -> Path:
    path = pulls.cache / REPO / "blobs" / f"{content.sha256}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def check_whole(pulls: LocalPulls, content: Content) -> None:
    """Pull, and look at what is there afterwards."""
    assert Path(pulls.pull("hf:org/repo").path).read_bytes() == MODEL
    blobs = [name for name in files_below(pulls.cache) if "/blobs/" in name]
    assert blobs == [f"{REPO}/blobs/{content.sha256}"]


def check_failed(pulls: LocalPulls, reason: str) -> str:
    """A pull fails, and leaves nothing that has a model's name."""
    with pytest.raises(PullFailed) as caught:
        pulls.pull("hf:org/repo")
    assert caught.value.reason == reason, caught.value
    assert all(name.endswith(".incomplete") for name in files_below(pulls.cache))
    assert "secret-signature" not in str(caught.value)
    return str(caught.value)


def ranges(pulls: LocalPulls) -> list[str | None]:
    """The ranges that the storage was asked for."""
    return [seen.headers.get("range") for seen in pulls.storage.seen]


def test_a_cut_connection_goes_on_where_it_ended(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.cut_after = [300_000, 200_000, 1]
    check_whole(pulls, content)
    assert ranges(pulls) == [None, "bytes=300000-", "bytes=500000-", "bytes=500001-"]
    assert pulls.storage.sent == content.size
    assert all(pause < 1 for pause in pulls.pauses)


def test_an_earlier_pull_is_gone_on_with(pulls: LocalPulls, content: Content) -> None:
    partial(pulls, content).write_bytes(MODEL[:700_000])
    check_whole(pulls, content)
    assert ranges(pulls) == ["bytes=700000-"]
    assert [progress.stage for progress in pulls.seen if progress.done == 700_000] == ["verify"]


def test_a_whole_partial_needs_no_request(pulls: LocalPulls, content: Content) -> None:
    partial(pulls, content).write_bytes(MODEL)
    check_whole(pulls, content)
    assert ranges(pulls) == []


@pytest.mark.parametrize("left", [b"x" * 700_000, MODEL[:-1] + b"x", MODEL + b"x"])
def test_a_damaged_rest_of_an_earlier_pull_costs_only_time(pulls: LocalPulls, content: Content, left: bytes) -> None:
    partial(pulls, content).write_bytes(left)
    check_whole(pulls, content)
    assert ranges(pulls)[-1] is None


def test_a_server_without_ranges(pulls: LocalPulls, content: Content) -> None:
    partial(pulls, content).write_bytes(MODEL[:700_000])
    pulls.storage.behaviour.ranges = False
    pulls.storage.behaviour.cut_after = [800_000]
    check_whole(pulls, content)
    assert ranges(pulls) == ["bytes=700000-", "bytes=800000-"]


def test_a_server_without_ranges_that_always_cuts_is_given_up(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.ranges = False
    pulls.storage.behaviour.cut_after = [500_000] * 50
    assert "broken off" in check_failed(pulls, "network")
    assert len(pulls.storage.seen) == 7
    assert pulls.pauses[-1] > pulls.pauses[-2] > pulls.pauses[-3], "each pause is longer"


def test_a_server_with_wrong_ranges(pulls: LocalPulls, content: Content) -> None:
    partial(pulls, content).write_bytes(MODEL[:700_000])
    pulls.storage.behaviour.wrong_range = True
    check_whole(pulls, content)
    assert ranges(pulls) == ["bytes=700000-", None]


def test_a_file_that_changes_between_two_connections(pulls: LocalPulls, content: Content) -> None:
    """If-Range has the second connection begin anew; what is mixed would have another digest."""
    behaviour = pulls.storage.behaviour
    behaviour.cut_after = [300_000]
    behaviour.etag = '"first"'

    def change(sent: int) -> None:
        if sent >= 300_000 - 65_536:
            behaviour.etag = '"second"'

    behaviour.pause = change
    check_whole(pulls, content)
    assert [seen.headers.get("if-range") for seen in pulls.storage.seen] == [None, '"first"']
    assert pulls.storage.sent == 300_000 + content.size


def test_wrong_bytes_get_no_name(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.replaced = {content.sha256: MODEL[:-1] + b"!"}
    assert "another SHA-256" in check_failed(pulls, "damaged")
    assert files_below(pulls.cache) == []
    assert len(pulls.storage.seen) == 1, "a whole wrong file isn't fetched twice"


def test_a_file_of_another_size(pulls: LocalPulls, content: Content) -> None:
    for other in (MODEL[:-1], MODEL + b"more"):
        pulls.storage.behaviour.replaced = {content.sha256: other}
        assert f"{content.size:,} were announced" in check_failed(pulls, "damaged")


def test_an_endless_body(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.endless = True
    assert "sends more than" in check_failed(pulls, "damaged")
    assert files_below(pulls.cache) == []


def test_a_web_page_instead_of_the_file(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.html = True
    assert "web page" in check_failed(pulls, "damaged")


@pytest.mark.parametrize("wrong", ["html", "size", "status", "compressed", "endless"])
def test_a_wrong_answer_to_a_resumed_pull_costs_nothing_of_what_is_here(
    pulls: LocalPulls, content: Content, wrong: str
) -> None:
    """A network before its login answers so: what was downloaded before must survive it."""
    partial(pulls, content).write_bytes(MODEL[:700_000])
    behaviour = pulls.storage.behaviour
    behaviour.html = wrong == "html"
    behaviour.ranges = wrong not in ("size", "compressed")
    behaviour.replaced = {content.sha256: MODEL + b"more"} if wrong == "size" else {}
    behaviour.status = [404] * 50 if wrong == "status" else []
    behaviour.endless = wrong == "endless"
    behaviour.encoding = "gzip" if wrong == "compressed" else None
    check_failed(pulls, "network" if wrong == "status" else "damaged")
    assert partial(pulls, content).read_bytes() == MODEL[:700_000]
    pulls.storage.behaviour = Behaviour()
    check_whole(pulls, content)
    assert ranges(pulls)[-1] == "bytes=700000-"


def test_a_compressed_body(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.encoding = "gzip"
    assert "compressed" in check_failed(pulls, "damaged")


def test_failures_of_the_storage_that_pass(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.status = [503, 429, 500]
    pulls.storage.behaviour.headers = {"Retry-After": "3"}
    check_whole(pulls, content)
    assert pulls.pauses == [3.0, 3.0, 3.0]


def test_an_address_of_the_storage_that_has_expired(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.status = [403]
    check_whole(pulls, content)


def test_a_storage_that_refuses_for_good(pulls: LocalPulls, content: Content) -> None:
    pulls.storage.behaviour.status = [403] * 50
    check_failed(pulls, "network")
    assert len(pulls.storage.seen) == 6


def test_silence_counts_as_a_cut_connection(pulls: LocalPulls, content: Content) -> None:
    pulls.silence_seconds = 0.2
    pulls.storage.behaviour.silent = True
    assert "fallen silent" in check_failed(pulls, "network")


def test_too_little_space_is_noticed_before_the_download(
    pulls: LocalPulls, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 400_000))
    assert "HF_HUB_CACHE" in check_failed(pulls, "disk")
    assert pulls.storage.seen == []
    partial(pulls, content).write_bytes(MODEL[:700_000])
    check_whole(pulls, content)


def test_a_disk_that_fills_up_keeps_what_is_there(
    pulls: LocalPulls, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        message = check_failed(pulls, "disk")
    assert "is full" in message
    assert partial(pulls, content).stat().st_size == content.size
    check_whole(pulls, content)


def test_a_folder_that_is_a_file(pulls: LocalPulls, content: Content) -> None:
    pulls.cache.write_text("a file")
    with pytest.raises(PullFailed) as caught:
        pulls.pull("hf:org/repo")
    assert (caught.value.reason, "HF_HUB_CACHE" in str(caught.value)) == ("disk", True)
