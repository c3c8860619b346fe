"""The sandbox's program: compile and follow grammars, one after the other, within limits that the kernel enforces.

Compiling can take unbounded time and memory, or the whole stack, despite llguidance's own limits. A schema of 30 bytes
(``multipleOf`` a large prime) or a long chain of rules is enough. A grammar that passes here is compiled again in the
engine, at the same cost.

Standard input brings a ``SandboxVocabulary`` and then ``TryGrammar`` messages, framed as in ``ipc``. Standard output
gets a ``SandboxReady`` and then a ``TryResult`` for each grammar.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from pathlib import Path

import msgspec
from llguidance import LLMatcher, LLTokenizer

from tailrace.child import SANDBOX_OOM_POINTS, raise_oom_score
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import check, compile_grammar, make_tokenizer
from tailrace.ipc import FrameDecoder, frame
from tailrace.parent_death import die_with_parent
from tailrace.protocol import Grammar

#: Seconds of CPU that one grammar may take.
CPU_SECONDS = 2.0
#: Bytes that one grammar may take. The engine caches some grammars, and each running reply has a copy of its own.
_MAX_MEMORY = 64 * 1024**2
#: Tokens of the random reply that tries the grammar.
_REPLY_TOKENS = 32
#: Masks are computed on other threads than grammars are compiled on, with less stack.
_STACK = 1024**2


class SandboxVocabulary(msgspec.Struct, tag="vocabulary", frozen=True, array_like=True):
    """The first message: the model's tokens as in ``Backend``."""

    pieces: list[bytes]
    end_tokens: list[int]


class TryGrammar(msgspec.Struct, tag="try", frozen=True, array_like=True):
    """Compile and follow a grammar."""

    grammar: Grammar


class SandboxReady(msgspec.Struct, tag="ready", frozen=True, array_like=True):
    """The vocabulary is loaded: from here on, a death of the process is a grammar's fault."""


class TryResult(msgspec.Struct, tag="result", frozen=True, array_like=True):
    """The grammar in llguidance's form, or the reason why it can't be used."""

    document: str | None = None
    error: str | None = None


def main() -> None:
    """Try grammars until standard input ends."""
    die_with_parent()
    raise_oom_score(SANDBOX_OOM_POINTS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    frames: FrameDecoder[SandboxVocabulary | TryGrammar] = FrameDecoder(SandboxVocabulary | TryGrammar)
    tokenizer: LLTokenizer | None = None
    while data := os.read(sys.stdin.fileno(), 1 << 20):
        for message in frames.feed(data):
            if isinstance(message, SandboxVocabulary):
                tokenizer = make_tokenizer(message.pieces, message.end_tokens, None)
                _limit_memory()
                _answer(SandboxReady())
            else:
                assert tokenizer is not None, "the vocabulary comes first"
                _answer(try_grammar(message.grammar, tokenizer))


def _answer(message: SandboxReady | TryResult) -> None:
    sys.stdout.buffer.write(frame(message))
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    if sys.platform != "linux":
        return  # Other kernels don't enforce this limit.
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + _MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def try_grammar(grammar: Grammar, tokenizer: LLTokenizer) -> TryResult:
    """Compile the grammar and follow it for a while. The kernel ends this process where that takes too long."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        document = translate(grammar)
        matcher = compile_grammar(tokenizer, document)
        _follow_on_small_stack(matcher)
        check(matcher)
    except GrammarError as error:
        return TryResult(error=str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return TryResult(document=document)


def _follow_on_small_stack(matcher: LLMatcher) -> None:
    """Raises what the thread raises: then this process ends, and the grammar is refused."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _follow(matcher)
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]


def _follow(matcher: LLMatcher) -> None:
    """Write a short random reply."""
    dice = random.Random(0)
    for _ in range(_REPLY_TOKENS):
        mask = matcher.compute_bitmask()
        if matcher.is_error() or matcher.is_stopped():
            return
        words = [index for index, byte in enumerate(mask) if byte]
        index = dice.choice(words)
        matcher.consume_token(8 * index + dice.choice([bit for bit in range(8) if mask[index] >> bit & 1]))


if __name__ == "__main__":
    main()
