"""Runs ``tailrace`` as a person does in a shell, with folders of the test's own, and servers in the background."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from servers import PATIENCE
from tailrace.machine.running_servers import ServerState, find_servers

TAILRACE = str(Path(sys.executable).with_name("tailrace"))
FAKE = ("--backend", "fake", "--port", "0")


class Shell:
    """Runs the command with folders of its own."""

    def __init__(self, folder: Path) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
        self.environment = {**own, "XDG_STATE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.state = folder / "tailrace"

    def __call__(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TAILRACE, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.environment, **more},
            check=False,
            timeout=PATIENCE,
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command for the time of the block."""
        output = subprocess.PIPE
        with subprocess.Popen(
            [TAILRACE, *arguments], env=self.environment, stdout=output, stderr=output, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def done(self, *arguments: str, **more: str) -> str:
        """The standard output of a command that has to succeed."""
        ended = self(*arguments, **more)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def servers(self) -> list[ServerState]:
        """The servers that are recorded."""
        return find_servers(self.state / "servers")

    def detach(self, *arguments: str, **more: str) -> int:
        """Start a server in the background; its port."""
        told = self.done("serve", "--detach", *FAKE, *arguments, **more)
        found = re.search(r"served in the background on http://127\.0\.0\.1:(\d+) ", told)
        assert found, told
        return int(found[1])

    def close(self) -> None:
        """Stop what runs in the background."""
        if self.servers():
            self.done("stop", "--all", "--now")
