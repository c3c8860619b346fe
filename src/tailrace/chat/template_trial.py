"""Tries a chat template in a process of its own, before this process compiles it.

A template is a program that came with a download or a request. Parsing and compiling it can take unbounded time and
memory, or the whole stack, and so can rendering it. The process ``template_trial_worker`` compiles it and renders test
conversations, within limits that the kernel enforces. A template that passes costs this process as much again.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec
import structlog

import tailrace
from tailrace.folders import cache_folder

#: Seconds of CPU for compiling the template and rendering about twenty short conversations. Real ones take up to 0.3 s.
CPU_SECONDS = 2.0
#: Bytes of memory that this may take.
MAX_MEMORY = 256 * 1024**2
#: Seconds by the clock, on a machine whose cores are busy.
_PATIENCE = 60.0
_MODULE = "tailrace.chat.template_trial_worker"


class TemplateTrial(msgspec.Struct, frozen=True):
    """What the process gets on standard input, as JSON. See ``ChatTemplate``."""

    source: str
    bos_token: str = ""
    eos_token: str = ""
    special_tokens: list[str] = []
    cpu_seconds: float = CPU_SECONDS
    max_memory: int = MAX_MEMORY


class TrialResult(msgspec.Struct, frozen=True):
    """What it writes to standard output. ``defect``: why the template can't be used."""

    defect: str | None


def find_defect(
    source: str, *, bos_token: str = "", eos_token: str = "", special_tokens: Iterable[str] = (), remember: bool = False
) -> str | None:
    """Why the template can't be used; None where it can. Waits for the process. Where the system has no process left,
    the template counts as usable: rendering has limits of its own.

    ``remember``: a template that has passed with these versions of Python, Jinja and tailrace isn't tried again.
    """
    trial = TemplateTrial(source, bos_token, eos_token, list(special_tokens), CPU_SECONDS)
    if not remember:
        return _try(trial)
    record = _record_of(trial)
    if record.exists():
        return None
    defect = _try(trial)
    if defect is None:
        with contextlib.suppress(OSError):  # It is tried again then.
            record.parent.mkdir(parents=True, exist_ok=True)
            record.touch()
    return defect


def _record_of(trial: TemplateTrial) -> Path:
    """The empty file that says that the trial was passed."""
    versions = (sys.version, metadata.version("jinja2"), tailrace.__version__)
    digest = hashlib.sha256(repr(versions).encode() + msgspec.json.encode(trial)).hexdigest()
    return cache_folder() / "templates" / digest[:32]


def _try(trial: TemplateTrial) -> str | None:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", _MODULE],
            input=msgspec.json.encode(trial),
            stdout=subprocess.PIPE,
            timeout=_PATIENCE,
            check=False,
        )
    except OSError as error:
        structlog.get_logger().error("a chat template can't be tried", error=str(error))
        return None
    except subprocess.TimeoutExpired:
        return f"trying the chat template takes more than {_PATIENCE:g} s"
    try:
        return msgspec.json.decode(done.stdout, type=TrialResult).defect
    except msgspec.DecodeError:
        return (
            f"compiling the chat template and rendering short conversations takes more than {CPU_SECONDS:g} s of "
            "processor time, or too much memory or nesting"
        )
