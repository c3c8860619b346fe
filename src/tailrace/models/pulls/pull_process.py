"""A pull in a process of its own: ``python -m tailrace.models.pulls.pull_process PARENT MEMORY REFERENCE``.

It writes its progress and its end as lines of JSON (``progress.Line``) to standard output, and dies with its parent.
Libraries for the web are imported here alone.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec
from huggingface_hub import constants

from tailrace.errors import ModelError, PullFailed
from tailrace.models.pulls.file_set import get
from tailrace.models.pulls.hub import Hub
from tailrace.models.pulls.ollama_layout import OllamaLayout, ollama_folder
from tailrace.models.pulls.ollama_registry import OllamaRegistry
from tailrace.models.pulls.progress import Failed, Line, Progress, Pulled
from tailrace.models.pulls.transport import Transport
from tailrace.models.reference import HubReference, OllamaReference, parse_reference
from tailrace.own_process.parent_death import die_with_parent

#: How far behind other processes this one's work comes.
_NICENESS = 10


def main() -> None:
    """Pull the model that the arguments name. A MEMORY of 0 means any."""
    parent, memory, text = sys.argv[1:]
    die_with_parent()
    # Hashing a large file takes a core for seconds, which is the engine's first.
    os.nice(_NICENESS)
    if os.getppid() != int(parent):
        raise SystemExit("the process that wanted a pull has died")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides what Ctrl-C means.
    end: Line
    try:
        end = _pull(text, int(memory) or None)
    except PullFailed as error:
        end = Failed(message=str(error), reason=error.reason)
    except ModelError as error:
        end = Failed(message=str(error), reason="missing")
    except OSError as error:
        # A folder without rights fails before anything is written.
        end = Failed(
            message=f"{error}. Correct the folder's rights, or set HF_HUB_CACHE or TAILRACE_MODELS to another one",
            reason="disk",
        )
    _write(end)


def _pull(text: str, memory: int | None) -> Pulled:
    reference = parse_reference(text, constants.ENDPOINT)
    transport = Transport()

    def waits(note: str) -> None:
        _write(Progress(stage="wait", note=note))

    _write(Progress(stage="manifest"))
    if isinstance(reference, HubReference):
        return get(Hub(transport).find(reference, memory, waits), _write)
    if isinstance(reference, OllamaReference):
        return get(OllamaRegistry(transport, reference, OllamaLayout(ollama_folder())).find(waits), _write)
    raise ModelError(f"{text} isn't pulled from anywhere: name hf:ORG/REPO or ollama:MODEL:TAG")


def _write(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
