"""Starts the servers to measure, each in its own process on a free port: tailrace, and llama-server if installed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tailrace.loadtest.bench_client import BenchClient

_WORKER_LISTENS = re.compile(r"tailrace worker listens on (\S+:\d+)")
#: A multi-gigabyte model may come from a slow disk.
_START_SECONDS = 300.0


class ServerError(Exception):
    """A server didn't start; the text has its output."""


@contextlib.contextmanager
def tailrace(
    model: Path | None,
    threads: int,
    *options: str,
    tuned: bool = False,
    key: str | None = None,
    lines: list[str] | None = None,
    **settings: str,
) -> Iterator[BenchClient]:
    """Run ``tailrace serve MODEL`` (None: the scripted backend) until the block ends.

    ``options`` are command-line options; ``settings`` are set by environment variables; ``tuned`` applies the settings
    that ``tailrace tune`` saved for the model; ``key`` is the client's API key; ``lines`` gets the log's lines once the
    server has ended. Speculation is off by default: greedy
    replies of test models repeat themselves, and the gain would hide other effects.
    """
    command = [str(Path(sys.executable).with_name("tailrace")), "serve"]
    command += [str(model)] if model is not None else ["--backend", "fake"]
    command += ["--threads", str(threads), *options]
    # The user's own settings must not apply.
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        clean |= {"XDG_CONFIG_HOME": folder, "TAILRACE_LOG_LEVEL": "warning", "TAILRACE_SPECULATE": "off"}
        if not tuned:
            clean["XDG_STATE_HOME"] = folder
        clean |= {f"TAILRACE_{name.upper()}": value for name, value in settings.items()}
        with _started(command, clean, "/health", key, lines) as client:
            yield client


@contextlib.contextmanager
def llama_server(model: Path, threads: int, *options: str) -> Iterator[BenchClient]:
    """Run the llama-server on the path, with default settings except for threads and ``options``."""
    program = shutil.which("llama-server")
    assert program is not None, "ask has_llama_server first"
    command = [program, "-m", str(model), "-t", str(threads), "--host", "127.0.0.1", *options]
    with _started(command, dict(os.environ), "/health") as client:
        yield client


@contextlib.contextmanager
def worker(threads: int) -> Iterator[str]:
    """Run ``tailrace worker`` on loopback until the block ends; its ``HOST:PORT``. It keeps no tensors on the disk."""
    command = [str(Path(sys.executable).with_name("tailrace")), "worker", "--listen", "127.0.0.1:0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--threads", str(threads), "--cache-mb", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=clean | {"XDG_CONFIG_HOME": folder},
        )
        assert process.stdout is not None
        try:
            # It ends with the process, too.
            line = process.stdout.readline()
            found = _WORKER_LISTENS.search(line)
            if found is None:
                log.seek(0)
                raise ServerError(f"the worker didn't start:\n{log.read().decode('utf-8', 'replace')[-3000:]}")
            yield found[1]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def has_llama_server() -> bool:
    """Whether llama-server is on the path."""
    return shutil.which("llama-server") is not None


def version_of(program: str) -> str:
    """The version line of a llama.cpp program on the path."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    return lines[0] if lines else "version unknown"


@contextlib.contextmanager
def _started(
    command: Sequence[str],
    environment: dict[str, str],
    health: str,
    key: str | None = None,
    lines: list[str] | None = None,
) -> Iterator[BenchClient]:
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(process, url + health):
                log.seek(0)
                words = log.read().decode("utf-8", "replace")[-3000:]
                raise ServerError(f"{' '.join(command)} didn't become ready:\n{words}")
            yield BenchClient(url, key=key)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if lines is not None:
                log.seek(0)
                lines += log.read().decode("utf-8", "replace").splitlines()


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for a 200. False when the process ends first, or after ``_START_SECONDS``."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
