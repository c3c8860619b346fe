"""The engine's receiving thread: reads submits and cancels, has them tokenised, answers, and fills the loop's inbox.

It runs beside the loop so that a request is accepted or refused within milliseconds even while a step reads a long
prompt: llama.cpp's calls release the GIL. Long texts are tokenised elsewhere (``tokenising``), so nothing keeps it from
reading on. It decides nothing about scheduling and touches no sequence that the loop owns.
"""

from __future__ import annotations

import threading
from functools import partial

import structlog

from tailrace.engine import embeddings
from tailrace.engine.backends.base import Backend
from tailrace.engine.inbox import Inbox
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.grammar_compiler import CompileOutcome, GrammarCompiler
from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.engine.submission import LARGE_TEXT_BYTES, build_sequence, prompt_texts
from tailrace.engine.tokenising import tokenizer as tokenising
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer import TokenizationFailed, Tokenizer
from tailrace.ipc import Channel
from tailrace.protocol import (
    Accepted,
    Cancel,
    Embed,
    Refused,
    Score,
    Submit,
    ToEngine,
    Tokenize,
    Tokenized,
    Watch,
)

#: What short texts are tokenised on takes up to 3 MB; only what is used takes memory.
_STACK = 32 * 1024**2

Asked = Submit | Tokenize | Embed | Score


class Intake(threading.Thread):
    """Reads ``channel`` until it ends; then puts None into the inbox."""

    def __init__(
        self,
        channel: Channel[ToEngine],
        backend: Backend,
        inbox: Inbox,
        compiler: GrammarCompiler,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(name="intake", daemon=True)
        self._channel = channel
        self._backend = backend
        self._inbox = inbox
        self._compiler = compiler
        self._tokenizer = tokenizer
        #: What is being tokenised, on another thread: cancelling takes it out.
        self._tokenising: dict[int, Asked] = {}
        #: Sequences whose grammar is being compiled, on another thread: cancelling one takes it out.
        self._compiling: dict[int, Sequence] = {}
        self._lock = threading.RLock()  # What is known at once is told while it is asked for.
        self._log = structlog.get_logger()

    def start(self) -> None:
        """See ``Thread``. Its stack has room for what any short text takes."""
        before = threading.stack_size(_STACK)
        super().start()
        threading.stack_size(before)

    def run(self) -> None:
        """The thread's body."""
        try:
            while (messages := self._channel.receive()) is not None:
                for message in messages:
                    self._take(message)
        except OSError as error:
            self._log.warning("connection to the HTTP process broke", error=str(error))
        finally:
            with self._lock:
                self._compiling.clear()
                asked = list(self._tokenising)
                self._tokenising.clear()
            for identity in asked:
                self._tokenizer.cancel(identity)
            self._inbox.put(None)

    def _take(self, message: ToEngine) -> None:
        if isinstance(message, Cancel):
            with self._lock:
                tokenising = self._tokenising.pop(message.id, None)
                compiling = self._compiling.pop(message.id, None)
            if tokenising is not None:
                self._tokenizer.cancel(message.id)
            elif compiling is None:
                self._inbox.put(message.id)
            return
        texts = self._texts_of(message)
        if isinstance(texts, Refused):
            self._channel.send(texts)
            return
        with self._lock:
            self._tokenising[message.id] = message
        self._tokenizer.request(message.id, texts, partial(self._tokenised, message.id))

    def _texts_of(self, asked: Asked) -> list[TokenizerInput] | Refused:
        if isinstance(asked, Submit):
            return prompt_texts(self._backend, asked)
        if not isinstance(asked, Tokenize):
            return embeddings.texts_to_tokenise(self._backend, asked)
        size = len(asked.text.text.encode())
        if size > max(LARGE_TEXT_BYTES, self._backend.info.context * self._backend.max_token_bytes):
            return Refused(asked.id, "invalid_prompt", f"{size} bytes are more than any prompt may have")
        return [TokenizerInput.of_prompt(asked.text, parse_special=asked.parse_special, add_special=asked.add_special)]

    def _tokenised(self, identity: int, result: tokenising.TokenizeOutcome) -> None:
        """What was to be tokenised has been, on whatever thread; or it can't be."""
        # The lock is held to the end, so that a cancel finds the request either here or where it goes from here.
        with self._lock:
            asked = self._tokenising.pop(identity, None)
            if asked is None:
                return
            try:
                if isinstance(result, TokenizationFailed):
                    self._channel.send(result.refusal(identity))
                elif isinstance(asked, Submit):
                    self._take_submit(asked, result)
                elif isinstance(asked, Tokenize):
                    self._channel.send(Tokenized(identity, result[0]))
                else:
                    texts = embeddings.make_jobs(self._backend, asked, result)
                    if isinstance(texts, Refused):
                        self._channel.send(texts)
                    else:
                        self._inbox.put(texts)
            except OSError as error:
                self._log.warning("connection to the HTTP process broke", error=str(error))

    def _take_submit(self, submit: Submit, tokenised: list[list[int]]) -> None:
        sequence = build_sequence(self._backend, submit, tokenised)
        if isinstance(sequence, Refused):
            self._channel.send(sequence)
        elif submit.params.grammar is None:
            self._accept(sequence)
        else:
            self._compiling[submit.id] = sequence
            done = partial(self._compiled, submit.id, submit.params.grammar.watch)
            self._compiler.request(submit.params.grammar, done, partial(self._compiling.__contains__, submit.id))

    def _compiled(self, identity: int, watch: Watch | None, result: CompileOutcome) -> None:
        """The sequence's grammar is there, or refused; one whose ``watch`` is optional is then done without."""
        # The lock is held to the end, so that a cancel finds the sequence either here or in the inbox.
        with self._lock:
            sequence = self._compiling.pop(identity, None)
            if sequence is None:
                return
            try:
                if isinstance(result, GrammarError) and watch is not None and watch.optional:
                    self._accept(sequence)
                    return
                if isinstance(result, GrammarError):
                    self._channel.send(Refused(identity, "invalid_grammar", str(result)))
                    return
                # With log probabilities every token is told with its own, so each is chosen by itself.
                sequence.constraint = self._compiler.constraint(
                    result,
                    fast_forward=sequence.logprobs is None,
                    begun="" if watch is None else watch.begun,
                )
                self._accept(sequence)
            except OSError as error:
                self._log.warning("connection to the HTTP process broke", error=str(error))

    def _accept(self, sequence: Sequence) -> None:
        # Accepted goes out before the loop can know the sequence, so it always precedes the first token.
        self._channel.send(Accepted(sequence.id, sequence.prompt_length))
        self._inbox.put(sequence)
