"""The process in which long texts are tokenised, from the engine's side: started when first needed, and again should it
end. Its program is ``llama.tokenise``.
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

import structlog

from tailrace.engine.tokenising.control_records import KILL, RECORD, TOKENISE
from tailrace.engine.tokenising.jobs import TokenIds, TokenizeJob, TokenizerInput, total_characters
from tailrace.engine.tokenising.worker_limits import cpu_seconds
from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import RefusedField

#: Seconds by the clock for each second of CPU, on a machine whose cores are busy with replies.
_PATIENCE = 8.0
#: Seconds by the clock that starting it may take: it imports and loads a vocabulary.
_START_SECONDS = 60.0
#: Seconds to wait for the end of a process that seems to be dead.
_END_SECONDS = 0.1
_MODULE = "tailrace.engine.backends.llama.tokenize_worker"


class TextNotTokenizable(Exception):
    """A text takes more than a text may. ``field`` says which one of the job's."""

    def __init__(self, text: TokenizerInput, size: int) -> None:
        """``text`` is of a job of ``size`` characters."""
        super().__init__(
            f"its {len(text.text)} characters can't be tokenised: that takes more than {cpu_seconds(size):.0f} s, more "
            "memory, or a longer run of characters without a break than this model's tokenizer can take. "
            "Shorten it, or break long runs up"
        )
        self.field: RefusedField = text.field


class TokenizerUnavailable(Exception):
    """The process can't be had, or is too slow on a machine this busy. No text is to blame."""


class TokenizerProcess:
    """One for a model. Any thread may use it; jobs run side by side."""

    def __init__(self, model: Path) -> None:
        self._model = model
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
            if not self._has_ended(process):
                break
            # Not by the text's fault: that ends the job's own process.
            self._log.warning("the process that tokenises has ended", attempt=attempt, status=process.returncode)
        else:
            raise TokenizerUnavailable("the process that tokenises can't be started; the log says why")
        raise TextNotTokenizable(texts[len(found)], total_characters(texts))

    def kill(self, number: int) -> None:
        """End the job, if it runs."""
        with self._lock:
            if self._control is not None:
                with contextlib.suppress(OSError):  # It has ended, and the job with it.
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

    def _has_ended(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _run(self, number: int, texts: Sequence[TokenizerInput]) -> tuple[list[list[int]], subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                process, control = self._started()
                with contextlib.suppress(OSError):
                    socket.send_fds(control, [RECORD.pack(TOKENISE, number)], [theirs.fileno()])
            deadline = time.monotonic() + _START_SECONDS + _PATIENCE * cpu_seconds(total_characters(texts))
            try:
                return self._exchange(ours, TokenizeJob(texts), deadline), process
            except TimeoutError:
                self.kill(number)
                raise TokenizerUnavailable("tokenising takes too long on this busy machine") from None

    def _exchange(self, ours: socket.socket, job: TokenizeJob, deadline: float) -> list[list[int]]:
        """Answers, until there are no more. Raises TimeoutError."""
        found: list[list[int]] = []
        frames: FrameDecoder[TokenIds] = FrameDecoder(TokenIds)
        try:
            ours.settimeout(max(0.01, deadline - time.monotonic()))
            ours.sendall(frame(job))
            while len(found) < len(job.texts):
                ours.settimeout(max(0.01, deadline - time.monotonic()))
                data = ours.recv(1 << 20)
                if not data:
                    break
                for tokens in frames.feed(data):
                    found.append(array.array("i", tokens.data).tolist())
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has died, and what it had sent is all there is.
        return found

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._close()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, str(self._model)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env={
                        **os.environ,
                        # It computes nothing, and has to be one thread when it makes others' processes.
                        "TAILRACE_KERNELS": "off",
                        "OMP_NUM_THREADS": "1",
                        "OPENBLAS_NUM_THREADS": "1",
                        # Threads' heaps of glibc take 128 MB of addresses each, which a job may not have.
                        "MALLOC_ARENA_MAX": "1",
                        # llama.cpp would start a debugger for each text that it aborts on.
                        "GGML_NO_BACKTRACE": "1",
                    },
                )
        return self._process, self._control
