"""Starts servers to measure, each in a process of its own on a free port: tailrace, and llama-server where it is."""

from __future__ import annotations

import contextlib
import os
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

from tailrace.loadtest.client import BenchClient

#: A multi-gigabyte model may have to come from a slow disk first.
_START_SECONDS = 300.0


class ServerError(Exception):
    """A server didn't start; says what it wrote."""


@contextlib.contextmanager
def tailrace(
    model: Path | None, threads: int, *options: str, tuned: bool = False, **settings: str
) -> Iterator[BenchClient]:
    """``tailrace serve MODEL`` (None: the scripted backend) with default settings but for ``options``, ``settings``
    that go by environment, and with ``tuned`` what ``tailrace tune`` remembers of the model. Without speculation: test
    models' greedy replies repeat themselves, and what that wins would hide what is measured.
    """
    command = [str(Path(sys.executable).with_name("tailrace")), "serve"]
    command += [str(model)] if model is not None else ["--backend", "fake"]
    command += ["--threads", str(threads), *options]
    # Nothing of the settings of the person who measures.
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        clean |= {"XDG_CONFIG_HOME": folder, "TAILRACE_LOG_LEVEL": "warning", "TAILRACE_SPECULATE": "off"}
        if not tuned:
            clean["XDG_STATE_HOME"] = folder
        clean |= {f"TAILRACE_{name.upper()}": value for name, value in settings.items()}
        with _started(command, clean, "/health") as client:
            yield client


@contextlib.contextmanager
def llama_server(model: Path, threads: int, *options: str) -> Iterator[BenchClient]:
    """The llama-server that is on the path, with its defaults but for threads and ``options``."""
    program = shutil.which("llama-server")
    assert program is not None, "ask has_llama_server first"
    command = [program, "-m", str(model), "-t", str(threads), "--host", "127.0.0.1", *options]
    with _started(command, dict(os.environ), "/health") as client:
        yield client


def has_llama_server() -> bool:
    """Whether there is one on the path."""
    return shutil.which("llama-server") is not None


def version_of(program: str) -> str:
    """What a llama.cpp program on the path says of itself, in one line."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    return lines[0] if lines else "version unknown"


@contextlib.contextmanager
def _started(command: Sequence[str], environment: dict[str, str], health: str) -> Iterator[BenchClient]:
    port = _free_port()
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
            yield BenchClient(url)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for a 200; False when the process ends first or the time is over."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
