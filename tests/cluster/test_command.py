"""``tailrace cluster``: it serves a real model by its own command line, shows what runs, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client_streams import ClientStream, wait_ended
from fault_figures import Record
from ray_cluster import free_port
from servers import alive, wait_for

_COMMAND = str(Path(sys.executable).with_name("tailrace"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, because Ray's sockets are below it."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as made:
        yield Path(made)


def _environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "RAY_"))}
    own = {"RAY_TMPDIR": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    return {**clean, **own, "TAILRACE_KEEP_DISK_MB": "0"}


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_COMMAND, "cluster", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=_environment(folder),
        check=False,
    )


def test_cluster_serves_shows_and_stops(folder: Path, record: Record) -> None:
    port = free_port()
    file = folder / "cluster.toml"
    file.write_text(
        f'port = {port}\n[models.small]\npath = "smollm2-135m"\nreplicas = 2\ncores = 1\nmemory_mb = 900\nctx = 1024\n',
        encoding="utf-8",
    )
    log = folder / "log"
    at = time.monotonic()
    with log.open("wb") as output:
        command = subprocess.Popen(
            [_COMMAND, "cluster", "serve", str(file)], stdout=output, stderr=output, env=_environment(folder)
        )
    try:
        wait_for("the address", lambda: f"listens on http://127.0.0.1:{port}\n" in log.read_text(encoding="utf-8"))
        record("from the command to the address, two replicas of a real model", time.monotonic() - at, 60, "s")
        stream = ClientStream(port, "small", "What is the capital of France?")
        wait_ended([stream])
        assert stream.seen.finish in ("stop", "length"), stream.seen

        shown = json.loads(_run(folder, "status", "--json").stdout)
        assert shown["status"] == "running"
        assert [(each["model"], each["phase"]) for each in shown["replicas"]] == [("small", "ready")] * 2
        assert "small" in _run(folder, "status").stdout
        pids = [each["pid"] for each in shown["replicas"] + shown["ingresses"]]
        assert _beyond_this_machine(folder) == [], "Ray listens beyond this machine"

        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 0, log.read_text(encoding="utf-8")
        assert not any(map(alive, pids))
    finally:
        if command.poll() is None:
            command.kill()
            command.wait()


def _beyond_this_machine(folder: Path) -> list[str]:
    """Listening sockets of Ray's processes that other machines reach."""
    shown = subprocess.run(["ps", "-axo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    sockets: set[str] = set()
    for line in shown.splitlines():
        pid, _, command = line.strip().partition(" ")
        if command.startswith("ray::") or str(folder) in command:
            try:
                links = list(Path(f"/proc/{pid}/fd").iterdir())
            except OSError:
                continue
            for link in links:
                try:
                    sockets |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
                except OSError:
                    continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and fields[9] in sockets and not fields[1].split(":")[0].endswith("0100007F"):
                found.append(fields[1])
    return found


def test_model_that_cannot_be_served_is_named(folder: Path) -> None:
    file = folder / "cluster.toml"
    file.write_text('[models.small]\npath = "/nothing/here.gguf"\ncores = 1\n', encoding="utf-8")

    ended = _run(folder, "serve", str(file))

    assert ended.returncode == 2
    assert "/nothing/here.gguf" in ended.stderr


def test_wrong_file_is_refused_before_ray_starts(folder: Path) -> None:
    file = folder / "cluster.toml"
    file.write_text('[models.small]\npath = "x"\nreplicas = 0\n', encoding="utf-8")

    ended = _run(folder, "serve", str(file))

    assert ended.returncode == 2
    assert "replicas can't be 0" in ended.stderr
    assert not (folder / "ray").exists()


def test_status_without_a_cluster_says_what_to_do(folder: Path) -> None:
    ended = _run(folder, "status")

    assert ended.returncode == 1
    assert "--address" in ended.stderr
