"""The sandbox's program: it forks a process for each grammar, which compiles and follows it within limits that the
kernel enforces.

Compiling can take unbounded time and memory, or the whole stack, despite llguidance's own limits. A schema of 30 bytes
(``multipleOf`` a large prime) or a long chain of rules is enough. A grammar that passes here is compiled again in the
engine, at the same cost.

Standard input is a socket. It brings a ``SandboxVocabulary``, framed as in ``ipc``, and is answered with a
``SandboxReady``. Then each byte comes with a socket of one grammar's own. That brings a ``TryGrammar``, and is answered
with a ``TryResult``. Where there is no answer, the grammar has ended its process. The engine closes the socket of a
grammar that isn't wanted any more: then its process is killed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NamedTuple

from llguidance import LLMatcher, LLTokenizer

from tailrace.child import SANDBOX_OOM_POINTS, raise_oom_score
from tailrace.engine.structured.constraint import BUDGET_SECONDS, BUDGET_SECONDS_PER_TOKEN
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import check, compile_grammar, make_tokenizer
from tailrace.engine.structured.sandbox_messages import SandboxReady, SandboxVocabulary, TryGrammar, TryResult
from tailrace.generation_params import Grammar
from tailrace.ipc import FrameDecoder, frame
from tailrace.own_process.address_space import limit_growth, resident_memory
from tailrace.own_process.parent_death import die_with_parent

#: Bytes that one grammar may take. The engine caches some grammars, and each running reply has a copy of its own.
_MAX_MEMORY = 64 * 1024**2
#: Tokens of the random reply that tries the grammar.
_REPLY_TOKENS = 32
#: Masks are computed on other threads than grammars are compiled on, with less stack.
_STACK = 1024**2


class _Child(NamedTuple):
    """The process of one grammar."""

    process: int  #: its id
    order: socket.socket  #: the grammar's socket: hangs up where the engine has closed it
    end: int  #: a pipe that hangs up when the process has ended


def main() -> None:
    """Try grammars until the engine closes the socket."""
    die_with_parent()
    raise_oom_score(SANDBOX_OOM_POINTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine ends this process, also when a terminal sends SIGINT.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    frames: FrameDecoder[SandboxVocabulary] = FrameDecoder(SandboxVocabulary)
    vocabulary: list[SandboxVocabulary] = []
    while not vocabulary:
        data = control.recv(1 << 20)
        if not data:
            return
        vocabulary = frames.feed(data)
    tokenizer = make_tokenizer(vocabulary[0].pieces, vocabulary[0].end_tokens, None)
    gc.collect()
    gc.freeze()  # Objects that the collector never touches stay shared with the forked processes.
    control.sendall(frame(SandboxReady()))
    ForkServer(control, tokenizer).run()


class ForkServer:
    """Forks the processes. It has one thread, because only such a process may fork."""

    def __init__(self, control: socket.socket, tokenizer: LLTokenizer) -> None:
        self._control = control
        self._tokenizer = tokenizer
        self._poll = select.poll()
        self._children: dict[int, _Child] = {}  #: by the descriptors of ``order`` and of ``end``

    def run(self) -> None:
        """Return when the engine closes the socket. Processes that still run are killed."""
        self._poll.register(self._control, select.POLLIN)
        while True:
            # New descriptors may have the numbers of those that are closed here, so orders come last.
            for descriptor, _ in sorted(self._poll.poll(), key=lambda event: event[0] == self._control.fileno()):
                child = self._children.get(descriptor)
                if child is not None and descriptor == child.end:
                    self._reap(child)
                elif child is not None:
                    # It hasn't been waited for, so its number can't be another process's.
                    os.kill(child.process, signal.SIGKILL)
                    self._poll.unregister(child.order)
                elif descriptor == self._control.fileno() and not self._read_order():
                    for each in self._children.values():
                        os.kill(each.process, signal.SIGKILL)
                    return

    def _read_order(self) -> bool:
        """Take one grammar's socket; False where the engine has closed the control socket."""
        data, sockets, _, _ = socket.recv_fds(self._control, 1, 1)
        if not data:
            return False
        order = socket.socket(fileno=sockets[0])
        end, end_of_child = os.pipe()
        process = os.fork()
        if not process:
            self._become_child(order, end)
        os.close(end_of_child)
        child = _Child(process, order, end)
        self._children[order.fileno()] = self._children[end] = child
        self._poll.register(order, 0)  # Hang-ups are always reported.
        self._poll.register(end, 0)
        return True

    def _reap(self, child: _Child) -> None:
        os.waitpid(child.process, 0)
        del self._children[child.order.fileno()], self._children[child.end]
        self._poll.unregister(child.end)
        with contextlib.suppress(KeyError):  # It has hung up before.
            self._poll.unregister(child.order)
        child.order.close()
        os.close(child.end)

    def _become_child(self, order: socket.socket, end: int) -> None:
        try:
            die_with_parent()
            os.close(end)
            # A socket stays open as long as any process has it: its other end would wait.
            for other in {child.order.fileno(): child for child in self._children.values()}.values():
                other.order.close()
                os.close(other.end)
            self._control.close()
            work(order, self._tokenizer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


def work(order: socket.socket, tokenizer: LLTokenizer) -> None:
    """Try the grammar that ``order`` brings."""
    frames: FrameDecoder[TryGrammar] = FrameDecoder(TryGrammar)
    while data := order.recv(1 << 20):
        for message in frames.feed(data):
            os.nice(message.nice)
            limit_growth(_MAX_MEMORY)
            signal.setitimer(signal.ITIMER_PROF, message.cpu_seconds)
            order.sendall(frame(try_grammar(message.grammar, tokenizer)))
            return


def try_grammar(grammar: Grammar, tokenizer: LLTokenizer) -> TryResult:
    """Compile the grammar and follow it for a while. The kernel ends this process where that takes too long."""
    before = resident_memory()
    try:
        document = translate(grammar)
        matcher = compile_grammar(tokenizer, document)
        seconds = _follow_on_small_stack(matcher)
        check(matcher)
    except GrammarError as error:
        return TryResult(error=str(error))
    except MemoryError:
        return TryResult(error="it takes too much memory")
    if sum(seconds) > BUDGET_SECONDS + BUDGET_SECONDS_PER_TOKEN * len(seconds):
        return TryResult(error=f"it is too ambiguous: {len(seconds)} tokens take {sum(seconds):.1f} s to find")
    return TryResult(
        document=document,
        mask_seconds=sorted(seconds)[len(seconds) // 2] if seconds else 0.0,
        memory_bytes=max(0, resident_memory() - before),
    )


def _follow_on_small_stack(matcher: LLMatcher) -> list[float]:
    """The processor seconds of each mask. Raises what the thread raises: then this process ends, and the grammar is
    refused.
    """
    errors: list[BaseException] = []
    seconds: list[float] = []

    def run() -> None:
        try:
            _follow(matcher, seconds)
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return seconds


def _follow(matcher: LLMatcher, seconds: list[float]) -> None:
    """Write a short random reply. The first mask isn't timed: the engine computes it once for all replies."""
    dice = random.Random(0)
    matcher.compute_bitmask()
    for _ in range(_REPLY_TOKENS):
        begun = time.thread_time()
        mask = matcher.compute_bitmask()
        seconds.append(time.thread_time() - begun)
        if matcher.is_error() or matcher.is_stopped():
            return
        words = [index for index, byte in enumerate(mask) if byte]
        index = dice.choice(words)
        matcher.consume_token(8 * index + dice.choice([bit for bit in range(8) if mask[index] >> bit & 1]))


if __name__ == "__main__":
    main()
