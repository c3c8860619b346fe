"""Pulls that are killed at any moment, and the memory of one of 10 GB."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fault_figures import Record
from local_pulls import files_below, pull_environment, pull_process_of
from pull_servers import Content, HubServer, OllamaRegistryServer, Storage, pull_servers
from servers import wait_for

COMMAND = [str(Path(sys.executable).with_name("tailrace")), "pull"]
_KILLS = 20
#: Bytes of each of two shards, and of a chunk of the server, which waits between them: a pull takes some seconds.
_SHARD = 24_000_000
_SLOWNESS = 0.004
_LARGE = 10_000_000_000
_MAX_MEMORY_MB = 100


@pytest.fixture
def servers() -> Iterator[tuple[HubServer, OllamaRegistryServer, Storage]]:
    with pull_servers() as made:
        yield made


def _has_begun(process: subprocess.Popen[bytes], storage: Storage, asked: int) -> bool:
    """Whether a pull has made another request than the ``asked`` ones before, or has ended."""
    return len(storage.seen) > asked or process.poll() is not None


def _reaches(kept: Callable[[], int], size: int) -> bool:
    return kept() > size


def _hold(storage: Storage, at: int) -> threading.Event:
    """Have the storage send nothing behind ``at`` bytes before the event."""
    may_go_on = threading.Event()

    def pause(sent: int) -> None:
        if sent >= at:
            may_go_on.wait(60)

    storage.behaviour.pause = pause
    return may_go_on


@pytest.mark.parametrize("source", ["hub", "registry"])
def test_a_pull_that_is_killed_at_any_moment_is_resumed(
    tmp_path: Path, servers: tuple[HubServer, OllamaRegistryServer, Storage], source: str, record: Record
) -> None:
    """Either the command or its process is killed, at random moments of its download. What has a model's name is whole
    at all times.
    """
    hub, registry, storage = servers
    chance = random.Random(15)
    contents = [Content(b"GGUF" + chance.randbytes(_SHARD)) for _ in range(2)]
    if source == "hub":
        for number, content in enumerate(contents, 1):
            hub.add(f"m-Q4_K_M-0000{number}-of-00002.gguf", content)
        reference, folder = "hf:org/repo", tmp_path / "huggingface" / "hub" / "models--org--repo"
    else:
        registry.add("model", contents[0])
        registry.add("projector", contents[1])
        reference, folder = "ollama:tiny:1b", tmp_path / "models" / "ollama"
    storage.behaviour.pause = lambda sent: time.sleep(_SLOWNESS)
    environment = pull_environment(tmp_path, hub, registry)
    digests = {content.sha256: content for content in contents}

    def check_names() -> None:
        """Everything that has a name is whole."""
        for name in files_below(folder) if folder.exists() else []:
            path = folder / name
            digest = path.name.removeprefix("sha256-")
            if digest in digests:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, name
            elif "snapshots" in path.parts:
                assert path.resolve().name in digests, name
            elif "manifests" in path.parts:
                assert all((folder / "blobs" / f"sha256-{whole}").exists() for whole in digests), name
            else:
                assert name.endswith((".incomplete", ".new", "refs/main")), name

    kills, whole_pulls = 0, 0
    while kills < _KILLS:
        asked = len(storage.seen)
        process = subprocess.Popen(
            [*COMMAND, reference], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            wait_for("a request for a file", partial(_has_begun, process, storage, asked))
            process.wait(chance.uniform(0.0, 1.5))
        if process.poll() is not None:
            # It came to its end before: the next ones begin anew.
            assert process.returncode == 0
            check_names()
            whole_pulls += 1
            for name in files_below(folder):
                (folder / name).unlink()
            continue
        child = pull_process_of(process.pid)
        if chance.random() < 0.5 and child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, 9)
        else:
            process.kill()
        process.wait()
        kills += 1
        check_names()
    storage.behaviour.pause = lambda sent: None
    # The last killed process may not be gone yet: this one then waits for it.
    done = subprocess.run([*COMMAND, reference], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_names()
    whole = [name for name in files_below(folder) if (folder / name).name.removeprefix("sha256-") in digests]
    assert len(whole) == len(digests)
    record("pulls that came to their end between the kills", whole_pulls, _KILLS, "pulls")


def test_what_was_received_is_not_sent_again(
    tmp_path: Path, servers: tuple[HubServer, OllamaRegistryServer, Storage], record: Record
) -> None:
    hub, registry, storage = servers
    content = hub.add("m-Q4_K_M.gguf", Content(b"GGUF" + random.Random(3).randbytes(_SHARD)))
    environment = pull_environment(tmp_path, hub, registry)
    growing = tmp_path / "huggingface/hub/models--org--repo/blobs" / f"{content.sha256}.incomplete"

    def kept() -> int:
        return growing.stat().st_size if growing.exists() else 0

    moments = range(4_000_000, _SHARD, 4_000_000)
    again = 0
    for kill_at in moments:
        may_go_on = _hold(storage, kill_at)
        process = subprocess.Popen([*COMMAND, "hf:org/repo"], env=environment, stderr=subprocess.DEVNULL)
        wait_for("what was sent to be on the disk", partial(_reaches, kept, kill_at - 2_000_000))
        process.kill()
        process.wait()
        may_go_on.set()
        again += kill_at - kept()
    storage.behaviour.pause = lambda sent: None
    subprocess.run([*COMMAND, "hf:org/repo"], env=environment, check=True, capture_output=True)
    # A megabyte of a buffer, and what was on its way through the sockets.
    record("sent again for each kill", again / len(moments) / 1e6, 4.0, "MB")


def test_the_memory_of_a_large_pull(
    tmp_path: Path, servers: tuple[HubServer, OllamaRegistryServer, Storage], record: Record
) -> None:
    """A file of 10 GB, which the server doesn't store: zeros. The pull writes, hashes and verifies all of it."""
    hub, registry, _ = servers
    digest = hashlib.sha256()
    zeros = bytes(1 << 20)
    for _ in range(_LARGE // len(zeros)):
        digest.update(zeros)
    digest.update(bytes(_LARGE % len(zeros)))
    hub.add("large-Q4_K_M.gguf", Content(zeros=_LARGE, sha256=digest.hexdigest()))
    environment = pull_environment(tmp_path, hub, registry)
    began = time.monotonic()
    process = subprocess.Popen([*COMMAND, "hf:org/repo:Q4_K_M"], env=environment, stderr=subprocess.DEVNULL)
    highest: dict[str, int] = {}
    while process.poll() is None:
        for name, pid in (("command", process.pid), ("pull", pull_process_of(process.pid))):
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
                line = next(line for line in status if line.startswith("VmHWM:"))
                highest[name] = int(line.split()[1]) * 1024
        time.sleep(0.2)
    assert process.returncode == 0
    (path,) = (tmp_path / "huggingface").rglob("large-Q4_K_M.gguf")
    assert path.stat().st_size == _LARGE
    record("a pull of 10 GB", highest["pull"] / 1e6, _MAX_MEMORY_MB, "MB")
    record("its command", highest["command"] / 1e6, _MAX_MEMORY_MB, "MB")
    record("its time", time.monotonic() - began, 3600.0, "s")
    path.resolve().unlink()
