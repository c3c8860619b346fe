"""The process in which grammars are tried before the engine compiles them: started when first needed, ended and started
anew when a grammar takes too much. Its program is ``trial``.
"""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence

import structlog

from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.engine.structured.sandbox_worker import CPU_SECONDS, SandboxVocabulary, TryGrammar, TryResult
from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import Grammar

#: Seconds by the clock that a trial may take on a machine whose cores are busy, the process's start included.
_PATIENCE = 20.0


class GrammarSandbox:
    """Used by one thread at a time."""

    def __init__(self, vocabulary: Sequence[bytes], end_tokens: Sequence[int]) -> None:
        self._vocabulary = SandboxVocabulary(list(vocabulary), list(end_tokens))
        self._process: subprocess.Popen[bytes] | None = None
        self._frames: FrameDecoder[TryResult] = FrameDecoder(TryResult)

    def document(self, grammar: Grammar) -> str:
        """The grammar in llguidance's form, after it has been compiled and followed. Raises GrammarError."""
        deadline = time.monotonic() + _PATIENCE
        try:
            verdict = self._ask(grammar, deadline)
        except (BrokenPipeError, ConnectionResetError):
            verdict = None
        if verdict is None:
            status = self.close()
            structlog.get_logger().warning("a grammar took too much and was stopped", kind=grammar.kind, status=status)
            raise GrammarError(
                f"it is too complex: compiling it takes more than {CPU_SECONDS:g} s, or too much memory or nesting"
            )
        if verdict.document is None:
            raise GrammarError(verdict.error or "it can't be compiled")
        return verdict.document

    def close(self) -> int | None:
        """End the process, if there is one; its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # What it hadn't read yet.
                    pipe.close()
        return status

    def _ask(self, grammar: Grammar, deadline: float) -> TryResult | None:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(frame(TryGrammar(grammar)))
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                data = process.stdout.read1(1 << 20)  # type: ignore[attr-defined]  # buffered, which the stubs don't say
                if not data:
                    return None
                for verdict in self._frames.feed(data):
                    return verdict
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._frames = FrameDecoder(TryResult)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tailrace.engine.structured.sandbox_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(frame(self._vocabulary))
        return self._process
