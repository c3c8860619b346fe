"""Another project's program between or beside the clients: its own process group, which listens on a port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from servers import wait_for


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def listening(
    name: str,
    command: Sequence[str | Path],
    folder: str,
    environment: Mapping[str, str],
    *,
    health: str,
    patience: float,
) -> Iterator[int]:
    """The port on which ``command``, told so by its last arguments, listens for the time of the block.

    It has answered at the path ``health`` within ``patience`` seconds. ``folder`` is its home, ``environment`` what it
    finds beside this process's own, without proxies.
    """
    port = free_port()
    clean = {key: value for key, value in os.environ.items() if "PROXY" not in key.upper()}
    log_path = Path(folder) / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**clean, "HOME": folder, **environment},
            cwd=folder,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, f"{name} has ended:\n{log_path.read_text(encoding='utf-8')[-4000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_for(f"{name} to listen", answers, patience)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
