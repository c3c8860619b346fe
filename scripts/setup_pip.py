"""Runs pip for ``setup.py`` and turns its failures into words that say what to do.

Uses the user's own pip configuration as it is. Runs on the standard library alone and, like all of setup, has to be
readable by Pythons older than tailrace needs, so that they get as far as the message that says so.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

#: How much of pip's output an error repeats.
SHOWN_LINES = 15


class SetupError(Exception):
    """Set-up can't continue; the message has the remedy."""


def pip_failure(what: str, lines: Iterable[str]) -> str:
    """The message for a failed pip: the task, its last output, and the remedy."""
    shown = "\n".join(f"    {line.rstrip()[:300]}" for line in lines)
    return (
        f"{what} failed. pip's last lines:\n{shown}\n"
        "If it couldn't download: check the network and pip's configuration (python3 -m pip config list; behind a\n"
        "proxy set HTTPS_PROXY, for a mirror set PIP_INDEX_URL). Then run the same command again: what is done stays."
    )


def run_pip(
    python: Path,
    args: Sequence[str],
    what: str,
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run the pip of ``python`` with ``args``; its output goes to ``log`` and ``on_line``.

    Raises SetupError, with pip's last lines, when it fails.
    """
    # Without --no-input a private index's password prompt would wait unseen behind the captured output.
    command = [str(python), "-m", "pip", "--no-input", "--disable-pip-version-check", *args]
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    with open(log or os.devnull, "w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(environment),
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                sink.write(line)
                if line.strip():
                    last.append(line)
                on_line(line)
    if process.returncode != 0:
        raise SetupError(pip_failure(what, last))
