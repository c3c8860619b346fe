"""Tries grammars in processes of their own before the engine compiles them.

The program ``grammar_sandbox_worker`` starts with the first grammar, and again where it has ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import structlog

from tailrace.engine.sandbox_process import has_ended
from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.structured.sandbox_messages import SandboxReady, SandboxVocabulary, TryGrammar, TryResult
from tailrace.errors import ProtocolError
from tailrace.generation_params import Grammar
from tailrace.ipc import FrameDecoder, frame

#: Seconds of CPU that one grammar may take.
CPU_SECONDS = 2.0
#: Seconds by the clock for the program's start, and for one grammar, on a machine whose cores are busy.
_START_SECONDS = 20.0
_TRIAL_SECONDS = 30.0
_MODULE = "tailrace.engine.structured.grammar_sandbox_worker"


class GrammarTooCostly(GrammarError):
    """Trying the grammar takes too much time or memory, or too deep a stack."""


class TrialCancelled(Exception):
    """The grammar isn't wanted any more."""


class Trial:
    """One grammar's trial. Any thread may cancel it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End the grammar's process, or don't start it."""
        with self._lock:
            self.cancelled = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # The process has just answered or died.
                    self._socket.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def using(self, sock: socket.socket) -> Iterator[None]:
        """Within, ``sock`` is the trial's. Raises TrialCancelled."""
        with self._lock:
            if self.cancelled:
                raise TrialCancelled
            self._socket = sock
        try:
            yield
        finally:
            with self._lock:
                self._socket = None


class GrammarSandbox:
    """One for a model. Any thread may use it; grammars are tried concurrently."""

    def __init__(self, vocabulary: Sequence[bytes], end_tokens: Sequence[int]) -> None:
        self._vocabulary = SandboxVocabulary(list(vocabulary), list(end_tokens))
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  #: the program's standard input
        self._lock = threading.Lock()

    def attempt(self, grammar: Grammar, trial: Trial, *, cpu_seconds: float = CPU_SECONDS, nice: int = 0) -> TryResult:
        """The grammar in llguidance's form, after it has been compiled and followed. ``nice``: see ``TryGrammar``.

        Raises GrammarError, TrialCancelled, and CompilerUnavailable where the program can't do its work.
        """
        for _ in range(2):
            result, process = self._exchange(TryGrammar(grammar, cpu_seconds, nice), trial)
            if trial.cancelled:
                raise TrialCancelled
            if result is not None:
                if result.document is None:
                    raise GrammarError(result.error or "it can't be compiled")
                return result
            if not has_ended(process):
                structlog.get_logger().warning("a grammar took too much and was stopped", kind=grammar.kind)
                raise GrammarTooCostly(
                    f"it is too complex: compiling it takes more than {cpu_seconds:g} s, or too much memory or nesting"
                )
            # A grammar can only end its own process, so this isn't its fault.
            structlog.get_logger().warning("the process that tries grammars has ended", status=process.returncode)
        raise CompilerUnavailable("the process that tries grammars has ended twice; the log says why")

    def close(self) -> int | None:
        """End the program, if it runs; its exit status."""
        with self._lock:
            return self._close()

    def _close(self) -> int | None:
        process, self._process = self._process, None
        control, self._control = self._control, None
        if control is not None:
            control.close()
        if process is None:
            return None
        process.kill()
        return process.wait()

    def _exchange(self, order: TryGrammar, trial: Trial) -> tuple[TryResult | None, subprocess.Popen[bytes]]:
        """The program's answer, None where the grammar's process has died, and the program."""
        engine_end, worker_end = socket.socketpair()
        with engine_end, worker_end, trial.using(engine_end):
            with worker_end, self._lock:
                process, control = self._started()
                with contextlib.suppress(OSError):  # The program has just died: there is no answer then.
                    socket.send_fds(control, [b"g"], [worker_end.fileno()])
            try:
                return _ask(engine_end, frame(order)), process
            except TimeoutError:
                raise CompilerUnavailable("trying a grammar takes too long on this busy machine") from None
            except ProtocolError as error:
                raise CompilerUnavailable(f"the process that tries grammars can't be used: {error}") from error

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The running program, which has the vocabulary. Raises CompilerUnavailable."""
        if self._process is not None and self._control is not None and self._process.poll() is None:
            return self._process, self._control
        self._close()
        self._control, worker_end = socket.socketpair()
        weakref.finalize(self, self._control.close)  # The program ends with its socket.
        try:
            with worker_end:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", _MODULE],
                    stdin=worker_end.fileno(),
                    stdout=subprocess.DEVNULL,
                    # Each thread's heap of glibc takes 128 MB of addresses, more than a grammar's limit.
                    env={**os.environ, "MALLOC_ARENA_MAX": "1"},
                )
        except OSError as error:
            self._close()
            raise CompilerUnavailable(f"the process that tries grammars can't be started: {error}") from error
        if not self._is_ready(self._control):
            status = self._close()
            raise CompilerUnavailable(f"the process that tries grammars has ended at its start (status {status})")
        self._control.settimeout(None)
        return self._process, self._control

    def _is_ready(self, control: socket.socket) -> bool:
        frames: FrameDecoder[SandboxReady] = FrameDecoder(SandboxReady)
        control.settimeout(_START_SECONDS)
        with contextlib.suppress(OSError, ProtocolError):  # The caller reports a program that isn't ready.
            control.sendall(frame(self._vocabulary))
            while data := control.recv(1 << 16):
                if frames.feed(data):
                    return True
        return False


def _ask(channel: socket.socket, message: bytes) -> TryResult | None:
    """The answer to ``message``; None where the other end has closed the socket. Raises TimeoutError."""
    frames: FrameDecoder[TryResult] = FrameDecoder(TryResult)
    deadline = time.monotonic() + _TRIAL_SECONDS
    try:
        channel.settimeout(_TRIAL_SECONDS)
        channel.sendall(message)
        while True:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            data = channel.recv(1 << 20)
            if not data:
                return None
            for result in frames.feed(data):
                return result
    except (BrokenPipeError, ConnectionResetError):
        return None
