"""A program in a terminal of its own, typed at and read by a test."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

#: Longer than any step takes on a busy machine; a test that waits so long has failed.
_PATIENCE = 120.0
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])")


class PtySession:
    """Runs ``command`` on a pseudo-terminal. ``raw`` is everything it has written."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 400) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        # The shell leads a new session: the terminal that it opens is then the one whose Ctrl-C reaches the program.
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$TTY" >"$TTY" 2>&1', "sh", *command],
            # Open from the start, because a terminal without an open end reads as closed.
            stdin=slave,
            env={**environment, "TTY": os.ttyname(slave), "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""
        self._bytes = b""
        self._read = 0

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def insist(self, key: str, pattern: str) -> None:
        """Press ``key`` again until ``pattern`` comes, as a person does.

        Python's line input misses a Ctrl-C in the instant between showing its prompt and waiting for keys.
        """
        for _ in range(int(_PATIENCE)):
            self.type(key)
            try:
                self.until(pattern, patience=1.0)
            except AssertionError:
                continue
            return
        raise AssertionError(f"{key!r} never led to {pattern!r}")

    def until(self, pattern: str, *, patience: float = _PATIENCE) -> str:
        """What comes, without escape sequences, up to the end of the first match of ``pattern``; AssertionError when
        it doesn't within ``patience`` seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            fresh = self._plain()[self._read :]
            if found := re.search(pattern, fresh):
                self._read += found.end()
                return fresh[: found.end()]
            if time.monotonic() > deadline or not self._more(deadline):
                raise AssertionError(f"{pattern!r} never came; the terminal shows:\n{fresh}")

    def wait(self) -> int:
        """The exit status, once the program has ended by itself."""
        while self._more(time.monotonic() + _PATIENCE):
            pass
        return self._process.wait(_PATIENCE)

    def close(self) -> None:
        """End the program if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)

    def _plain(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n").replace("\r", "")

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False  # Linux's way to say that the other end is closed.
        self._bytes += data
        self.raw = self._bytes.decode("utf-8", "ignore")
        return bool(data)
