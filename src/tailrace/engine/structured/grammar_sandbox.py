"""Tries grammars in a process of its own before the engine compiles them. The process starts with the first grammar. If
a grammar takes too much, the process is ended, and started again. Its program is ``grammar_sandbox_worker``.
"""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence

import structlog

from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.structured.grammar_sandbox_worker import (
    CPU_SECONDS,
    SandboxReady,
    SandboxVocabulary,
    TryGrammar,
    TryResult,
)
from tailrace.errors import ProtocolError
from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import Grammar

#: Seconds by the clock for the process's start, and for one grammar, on a machine whose cores are busy.
_PATIENCE = 20.0

_Answer = SandboxReady | TryResult


class GrammarSandbox:
    """For one thread at a time."""

    def __init__(self, vocabulary: Sequence[bytes], end_tokens: Sequence[int]) -> None:
        self._vocabulary = SandboxVocabulary(list(vocabulary), list(end_tokens))
        self._process: subprocess.Popen[bytes] | None = None
        self._frames: FrameDecoder[_Answer] = FrameDecoder(_Answer)

    def document(self, grammar: Grammar) -> str:
        """The grammar in llguidance's form, after it has been compiled and followed.

        Raises GrammarError, and CompilerUnavailable where the process can't do its work.
        """
        process = self._started()
        result = self._exchange(process, frame(TryGrammar(grammar)))
        if result is None:
            status = self.close()
            structlog.get_logger().warning("a grammar took too much and was stopped", kind=grammar.kind, status=status)
            raise GrammarError(
                f"it is too complex: compiling it takes more than {CPU_SECONDS:g} s, or too much memory or nesting"
            )
        assert isinstance(result, TryResult)
        if result.document is None:
            raise GrammarError(result.error or "it can't be compiled")
        return result.document

    def close(self) -> int | None:
        """End the process, if there is one; its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # The rest that the process hadn't read.
                    pipe.close()
        return status

    def _started(self) -> subprocess.Popen[bytes]:
        """The running process, which has the vocabulary. Raises CompilerUnavailable."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._frames = FrameDecoder(_Answer)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.engine.structured.grammar_sandbox_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise CompilerUnavailable(f"the process that tries grammars can't be started: {error}") from error
        if self._exchange(self._process, frame(self._vocabulary)) is None:
            status = self.close()
            raise CompilerUnavailable(f"the process that tries grammars has ended at its start (status {status})")
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], message: bytes) -> _Answer | None:
        """The process's answer to ``message``; None where it has died. Raises CompilerUnavailable."""
        deadline = time.monotonic() + _PATIENCE
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message)
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while selector.select(max(0.0, deadline - time.monotonic())):
                    data = process.stdout.read1(1 << 20)  # type: ignore[attr-defined]  # buffered, unlike the stubs say
                    if not data:
                        return None
                    for answer in self._frames.feed(data):
                        return answer
        except (BrokenPipeError, ConnectionResetError):
            return None
        except (OSError, ProtocolError) as error:
            self.close()
            raise CompilerUnavailable(f"the process that tries grammars can't be used: {error}") from error
        self.close()
        raise CompilerUnavailable("trying a grammar takes too long on this busy machine")
