"""``tailrace pull`` in processes of its own: two of one file, one that dies, one on a terminal that is stopped."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_pulls import files_below, pull_environment, pull_process_of
from pty_session import PtySession
from pull_servers import Content, HubServer, OllamaRegistryServer, Storage, pull_servers
from servers import PATIENCE, alive, wait_for

MODEL = b"GGUF" + random.Random(5).randbytes(3_000_000)
COMMAND = [str(Path(sys.executable).with_name("tailrace")), "pull"]


class Setup:
    """The servers, a model, and the environment of commands. The storage waits behind ``held_at`` bytes."""

    def __init__(self, folder: Path, hub: HubServer, registry: OllamaRegistryServer, storage: Storage) -> None:
        self.folder, self.hub, self.registry, self.storage = folder, hub, registry, storage
        self.environment = pull_environment(folder, hub, registry)
        self.content: Content = hub.add("model-Q4_K_M.gguf", MODEL)
        self.held_at = len(MODEL)
        self.may_go_on = threading.Event()
        storage.behaviour.pause = self._pause

    def _pause(self, sent: int) -> None:
        if sent >= self.held_at:
            self.may_go_on.wait(PATIENCE)

    @property
    def partial(self) -> Path:
        return self.blobs / f"{self.content.sha256}.incomplete"

    @property
    def blobs(self) -> Path:
        return self.folder / "huggingface" / "hub" / "models--org--repo" / "blobs"

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def wait_until_held(self) -> None:
        """Wait until a pull has begun, and receives nothing more."""
        wait_for("the storage to hold a pull", lambda: self.storage.sent >= self.held_at)

    def check_whole(self) -> None:
        """The model is there, and nothing else."""
        (path,) = self.folder.glob("huggingface/hub/models--org--repo/snapshots/*/model-Q4_K_M.gguf")
        assert path.read_bytes() == MODEL
        assert files_below(self.blobs) == [self.content.sha256]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    with pull_servers() as (hub, registry, storage):
        made = Setup(tmp_path, hub, registry, storage)
        yield made
        made.may_go_on.set()


def test_pull_and_pull_again(setup: Setup) -> None:
    code, out, err = setup.run("hf:org/repo")
    assert (code, err.splitlines()[0]) == (0, "downloading model-Q4_K_M.gguf: 3.0 MB")
    assert err.splitlines()[-1] == "100% of 3.0 MB"
    assert out.startswith("hf:org/repo fetched: 3.0 MB, ")
    setup.check_whole()
    code, out, err = setup.run("org/repo:q4_k_m")
    assert (code, err) == (0, "")
    assert out.startswith("org/repo:q4_k_m is here: 3.0 MB, ")


def test_two_pulls_of_one_file_share_it(setup: Setup) -> None:
    setup.held_at = 1_000_000
    first = setup.start("hf:org/repo")
    setup.wait_until_held()
    second = setup.start("hf:org/repo")
    wait_for("the second one's listing", lambda: sum("/api/" in seen.path for seen in setup.hub.seen) == 2)
    assert second.stderr is not None
    assert "another process downloads it" in second.stderr.readline()
    setup.may_go_on.set()
    for process in (first, second):
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "3.0 MB" in out) == (0, True)
    assert setup.storage.sent == len(MODEL)
    setup.check_whole()


def test_if_the_first_one_dies_the_second_one_goes_on(setup: Setup) -> None:
    setup.held_at = 2_500_000
    first = setup.start("hf:org/repo")
    setup.wait_until_held()
    second = setup.start("hf:org/repo")
    assert second.stderr is not None
    assert "another process downloads it" in second.stderr.readline()
    pulling = pull_process_of(first.pid)
    assert pulling is not None
    os.kill(pulling, signal.SIGKILL)
    setup.may_go_on.set()
    _, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1
    assert "ended with status -9" in err
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert setup.storage.seen[-1].headers["range"].startswith("bytes=")
    setup.check_whole()


def test_a_pull_dies_with_its_command_and_is_resumed(setup: Setup) -> None:
    setup.held_at = 2_500_000
    process = setup.start("hf:org/repo")
    setup.wait_until_held()
    child = pull_process_of(process.pid)
    assert child is not None
    process.kill()
    process.communicate()
    wait_for("the pull's own process to end", lambda: not alive(child))
    assert files_below(setup.blobs) == [setup.partial.name]
    kept = setup.partial.stat().st_size
    setup.may_go_on.set()
    assert setup.run("hf:org/repo")[0] == 0
    assert setup.storage.seen[-1].headers["range"] == f"bytes={kept}-"
    setup.check_whole()


def test_ctrl_c_on_a_terminal(setup: Setup) -> None:
    setup.held_at = 2_000_000
    session = PtySession([*COMMAND, "hf:org/repo"], setup.environment, columns=100)
    setup.wait_until_held()
    session.until(r"downloading model-Q4_K_M\.gguf .*MB")
    session.type("\x03")
    session.until(r"Stopped\. Pull again with: tailrace pull hf:org/repo, which goes on where it ended")
    assert session.wait() == 130
    setup.may_go_on.set()
    session = PtySession([*COMMAND, "hf:org/repo"], setup.environment, columns=100)
    session.until(r"hf:org/repo fetched: 3\.0 MB")
    assert re.search(r"3\.0/3\.0 MB", session.raw)
    assert session.wait() == 0
    setup.check_whole()


def test_a_refusal_is_one_line(setup: Setup) -> None:
    setup.hub.gated, setup.hub.token = True, "hf_right"
    setup.environment["HF_TOKEN"] = "hf_wrong_secret"
    setup.hub.token = None
    code, out, err = setup.run("hf:org/repo")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "accept its licence at" in err
    assert "hf_wrong_secret" not in err


def test_ollamas_registry(setup: Setup) -> None:
    weights = setup.registry.add("model", MODEL)
    setup.registry.add("license", b"free")
    setup.registry.token = "given"
    code, out, _ = setup.run("ollama:tiny:1b")
    assert code == 0
    path = setup.folder / "models" / "ollama" / "blobs" / f"sha256-{weights.sha256}"
    assert out == f"ollama:tiny:1b fetched: 3.0 MB, {path}\n"
    assert path.read_bytes() == MODEL


def test_a_cache_folder_that_can_not_be_looked_into_is_named(setup: Setup) -> None:
    setup.environment["HF_HUB_CACHE"] = f"/{'x' * 300}"
    code, out, err = setup.run("hf:org/repo")
    assert (code, out, "HF_HUB_CACHE" in err, "Traceback" in err) == (1, "", True, False), err
