"""The sandbox's program: try grammars, one after the other, and say what came of it.

Compiling can take unbounded time and memory, or the whole stack, whatever llguidance's limits are: a schema of 30 bytes
(``multipleOf`` a large prime) or a chain of rules is enough. So it is first done here, where the kernel ends it. What
passes is compiled again in the engine, at the same cost.

Standard input brings a ``SandboxVocabulary`` and then ``TryGrammar`` messages, framed as in ``ipc``. Standard output
gets a ``TryResult`` for each grammar.
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

from tailrace.child import die_with_parent
from tailrace.engine.structured.grammar_translation import GrammarError, translate
from tailrace.engine.structured.matcher import check, compile_grammar, make_tokenizer
from tailrace.ipc import FrameDecoder, frame
from tailrace.protocol import Grammar

#: Seconds of CPU that one grammar may take.
CPU_SECONDS = 2.0
#: Bytes that a grammar may take: the engine keeps some of them, and each running reply has a copy of its own.
_MEMORY = 64 * 1024**2
#: Tokens of the random reply by which a grammar shows that it can be followed.
_TOKENS = 32
#: Matching runs on other threads than compiling, some of which have less stack than the first.
_STACK = 1024**2


class SandboxVocabulary(msgspec.Struct, tag="vocabulary", frozen=True, array_like=True):
    """The first message: the model's tokens as in ``Backend``."""

    pieces: list[bytes]
    end_tokens: list[int]


class TryGrammar(msgspec.Struct, tag="trial", frozen=True, array_like=True):
    """Try a grammar."""

    grammar: Grammar


class TryResult(msgspec.Struct, frozen=True, array_like=True):
    """What came of a trial: llguidance's form of the grammar, or what is wrong with it."""

    document: str | None = None
    error: str | None = None


def main() -> None:
    """Try until standard input ends."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    frames: FrameDecoder[SandboxVocabulary | TryGrammar] = FrameDecoder(SandboxVocabulary | TryGrammar)
    tokenizer: LLTokenizer | None = None
    while data := os.read(sys.stdin.fileno(), 1 << 20):
        for message in frames.feed(data):
            if isinstance(message, SandboxVocabulary):
                tokenizer = make_tokenizer(message.pieces, message.end_tokens, None)
                _limit_memory()
            elif tokenizer is not None:
                sys.stdout.buffer.write(frame(try_grammar(message.grammar, tokenizer)))
                sys.stdout.buffer.flush()


def _limit_memory() -> None:
    if sys.platform != "linux":
        return  # Other kernels don't hold processes to this limit.
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def try_grammar(grammar: Grammar, tokenizer: LLTokenizer) -> TryResult:
    """Compile the grammar and follow it for a while; the kernel ends this process when that takes too long."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        document = translate(grammar)
        matcher = compile_grammar(tokenizer, document)
        _on_small_stack(matcher)
        check(matcher)
    except GrammarError as error:
        return TryResult(error=str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return TryResult(document=document)


def _on_small_stack(matcher: LLMatcher) -> None:
    before = threading.stack_size(_STACK)
    thread = threading.Thread(target=_follow, args=(matcher,))
    thread.start()
    threading.stack_size(before)
    thread.join()


def _follow(matcher: LLMatcher) -> None:
    """Write a short random reply."""
    dice = random.Random(0)
    for _ in range(_TOKENS):
        mask = matcher.compute_bitmask()
        if matcher.is_error() or matcher.is_stopped():
            return
        words = [index for index, byte in enumerate(mask) if byte]
        index = dice.choice(words)
        matcher.consume_token(8 * index + dice.choice([bit for bit in range(8) if mask[index] >> bit & 1]))


if __name__ == "__main__":
    main()
