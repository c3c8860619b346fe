"""The engine's side of the process that tokenises long texts. It starts with the first long text, and again where it
has ended. Its program is ``backends.llama.tokenize_worker``.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from tailrace.engine.sandbox_process import has_ended
from tailrace.engine.tokenising.control_records import KILL, RECORD, TOKENISE
from tailrace.engine.tokenising.jobs import TokenIds, TokenizeJob, TokenizerInput, total_characters
from tailrace.engine.tokenising.text_limits import cpu_seconds
from tailrace.ipc import FrameDecoder, frame
from tailrace.models.metadata_override import MetadataOverride
from tailrace.protocol import RefusedField

#: Seconds by the clock for each second of CPU, on a machine whose cores are busy with replies.
_PATIENCE = 8.0
#: Seconds by the clock for the process's start: it imports modules and loads a vocabulary.
_START_SECONDS = 60.0
_MODULE = "tailrace.engine.backends.llama.tokenize_worker"


class TextNotTokenizable(Exception):
    """A text exceeds the limits of its process. ``field`` is the request's field with that text."""

    def __init__(self, text: TokenizerInput, size: int) -> None:
        """``text`` is of a job of ``size`` characters."""
        super().__init__(
            f"its {len(text.text)} characters can't be tokenised: that takes more than {cpu_seconds(size):.0f} s, more "
            "memory, or a longer run of characters without a break than this model's tokenizer can take. "
            "Shorten it, or break long runs up"
        )
        self.field: RefusedField = text.field


class TokenizerUnavailable(Exception):
    """The process can't be started, or is too slow on a busy machine. The text is not at fault."""


class TokenizerProcess:
    """One for a model. Any thread may use it; jobs run concurrently."""

    def __init__(self, model: Path, overrides: Sequence[MetadataOverride] = ()) -> None:
        """``overrides``: of the model's metadata, which may change how texts become tokens."""
        self._model = model
        self._overrides = msgspec.json.encode(overrides).decode()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  #: the program's standard input
        self._lock = threading.Lock()
        self._log = structlog.get_logger()

    def run(self, number: int, texts: Sequence[TokenizerInput]) -> list[list[int]]:
        """The tokens of each text. ``number`` is the job's own, for ``kill``.

        Raises TextNotTokenizable and TokeniserUnavailable; either when it was killed.
        """
        for attempt in (1, 2):
            found, process = self._run(number, texts)
            if len(found) == len(texts):
                return found
            if not has_ended(process):
                break
            # A text can only end its own worker, so this is not the text's fault.
            self._log.warning("the process that tokenises has ended", attempt=attempt, status=process.returncode)
        else:
            raise TokenizerUnavailable("the process that tokenises can't be started; the log says why")
        raise TextNotTokenizable(texts[len(found)], total_characters(texts))

    def kill(self, number: int) -> None:
        """End the job, if it runs."""
        with self._lock:
            if self._control is not None:
                with contextlib.suppress(OSError):  # The process has ended, and the job with it.
                    self._control.sendall(RECORD.pack(KILL, number))

    def close(self) -> None:
        """End the process, if there is one, and all jobs."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._control is not None:
            self._control.close()
            self._control = None

    def _run(self, number: int, texts: Sequence[TokenizerInput]) -> tuple[list[list[int]], subprocess.Popen[bytes]]:
        engine_end, worker_end = socket.socketpair()
        with engine_end:
            with worker_end, self._lock:
                process, control = self._started()
                with contextlib.suppress(OSError):
                    socket.send_fds(control, [RECORD.pack(TOKENISE, number)], [worker_end.fileno()])
            deadline = time.monotonic() + _START_SECONDS + _PATIENCE * cpu_seconds(total_characters(texts))
            try:
                return self._exchange(engine_end, TokenizeJob(texts), deadline), process
            except TimeoutError:
                self.kill(number)
                raise TokenizerUnavailable("tokenising takes too long on this busy machine") from None

    def _exchange(self, channel: socket.socket, job: TokenizeJob, deadline: float) -> list[list[int]]:
        """The tokens of each text, until the worker closes its socket. Raises TimeoutError."""
        found: list[list[int]] = []
        frames: FrameDecoder[TokenIds] = FrameDecoder(TokenIds)
        try:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            channel.sendall(frame(job))
            while len(found) < len(job.texts):
                channel.settimeout(max(0.01, deadline - time.monotonic()))
                data = channel.recv(1 << 20)
                if not data:
                    break
                for tokens in frames.feed(data):
                    found.append(array.array("i", tokens.data).tolist())
        except (BrokenPipeError, ConnectionResetError):
            pass  # The worker has died: there are no more answers.
        return found

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._close()
            self._control, worker_end = socket.socketpair()
            with worker_end:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE, str(self._model), self._overrides],
                    stdin=worker_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={
                        **os.environ,
                        # It computes nothing, and must have one thread when it forks.
                        "TAILRACE_KERNELS": "off",
                        "OMP_NUM_THREADS": "1",
                        "OPENBLAS_NUM_THREADS": "1",
                        # Each thread's heap of glibc takes 128 MB of addresses, more than a job's limit.
                        "MALLOC_ARENA_MAX": "1",
                        # On an abort, llama.cpp would start a debugger.
                        "GGML_NO_BACKTRACE": "1",
                    },
                )
        return self._process, self._control
