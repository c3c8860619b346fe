"""The engine's receiving thread: takes requests and cancels, has them tokenised, answers, and fills the loop's inbox.

It runs beside the loop, so a request is accepted or refused within milliseconds even while a step computes a long
prompt: llama.cpp's calls release the GIL. Long texts are tokenised elsewhere (``tokenising``), so the thread goes on
receiving. It decides nothing about scheduling, and doesn't touch a sequence that the loop owns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec
import structlog

from tailrace.engine import embeddings, ranking
from tailrace.engine.backends.base import Backend
from tailrace.engine.helper_thread import HelperThread
from tailrace.engine.inbox import Inbox
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.grammar_compiler import CompileOutcome, GrammarCompiler
from tailrace.engine.structured.grammar_error import CompilerUnavailable, GrammarError
from tailrace.engine.submission import LARGE_TEXT_BYTES, build_sequences, prompt_texts
from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.tokenizer import TokenizationFailed, TokenizeOutcome, Tokenizer
from tailrace.errors import ProtocolError
from tailrace.generation_params import Grammar, LazyTriggers
from tailrace.ipc import Channel
from tailrace.protocol import (
    Accepted,
    Cancel,
    Embed,
    Rank,
    RefusalCode,
    Refused,
    Score,
    Submit,
    ToEngine,
    Tokenize,
    Tokenized,
)

#: Tokenising a short text takes up to 3 MB of stack. Only the part that is used takes memory.
_STACK_BYTES = 32 * 1024**2

_Request = Submit | Tokenize | Embed | Rank | Score


class Intake(HelperThread):
    """Receives from ``channel`` until it ends; then puts None into the inbox.

    An error in one request's work refuses that request; it doesn't concern the others.
    """

    def __init__(
        self,
        channel: Channel[ToEngine],
        backend: Backend,
        inbox: Inbox,
        compiler: GrammarCompiler,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(self._receive_all, name="intake")
        self._channel = channel
        self._backend = backend
        self._inbox = inbox
        self._compiler = compiler
        self._tokenizer = tokenizer
        #: Requests whose texts are being tokenised, by id. A cancel removes them.
        self._tokenising: dict[int, _Request] = {}
        #: Sequences whose grammar is being compiled, by id. A cancel removes them.
        self._compiling: dict[int, Sequence] = {}
        #: Reentrant: a result that is known at once is delivered during the call that asks for it.
        self._lock = threading.RLock()
        self._log = structlog.get_logger()

    def start(self) -> None:
        """See ``Thread``. The stack is large enough to tokenise short texts on it."""
        before = threading.stack_size(_STACK_BYTES)
        super().start()
        threading.stack_size(before)

    def _receive_all(self) -> None:
        try:
            while (messages := self._channel.receive()) is not None:
                for message in messages:
                    self.begun = time.monotonic()
                    if isinstance(message, Cancel):
                        self._cancel(message.id)
                    else:
                        self._guard(_ids(message), partial(self._tokenise, message))
                self.begun = 0.0
        except OSError as error:
            self._log.warning("connection to the HTTP process broke", error=str(error))
        except ProtocolError as error:
            self._log.error("the HTTP process sent bytes that are no message", error=str(error))
        finally:
            with self._lock:
                compiling = list(self._compiling)
                self._compiling.clear()
                tokenising = list(self._tokenising)
                self._tokenising.clear()
            for identity in tokenising:
                self._tokenizer.cancel(identity)
            for identity in compiling:
                self._compiler.cancel(identity)
            self._inbox.put(None)

    def _guard(self, ids: range, work: Callable[[], None]) -> None:
        """Do a part of one request's work, on any thread. An exception in it ends the request, which has these ids."""
        try:
            work()
        except Exception as error:
            self._log.exception("a request can't be taken in")
            with self._lock:
                for identity in ids:
                    self._tokenising.pop(identity, None)
                    self._compiling.pop(identity, None)
            self._refuse(ids, Refused(ids.start, "unavailable", f"the engine can't take the request in: {error!r}"))

    def _refuse(self, ids: range, refused: Refused) -> None:
        """Refuse all copies of a request."""
        for identity in ids:
            self._send(msgspec.structs.replace(refused, id=identity))

    def _send(self, message: Refused | Accepted | Tokenized) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            # ``receive`` ends with the connection, too, and then everything is dropped.
            self._log.warning("connection to the HTTP process broke", error=str(error))

    def _cancel(self, identity: int) -> None:
        with self._lock:
            tokenising = self._tokenising.pop(identity, None)
            compiling = self._compiling.pop(identity, None)
        if tokenising is not None:
            self._tokenizer.cancel(identity)
        elif compiling is not None:
            self._compiler.cancel(identity)
        else:
            self._inbox.put(identity)

    def _tokenise(self, request: _Request) -> None:
        """Have the request's texts tokenised."""
        texts = self._texts_of(request)
        if isinstance(texts, Refused):
            self._refuse(_ids(request), texts)
            return
        with self._lock:
            self._tokenising[request.id] = request
        self._tokenizer.request(request.id, texts, partial(self._on_tokenised, request.id), request.caller)

    def _texts_of(self, request: _Request) -> list[TokenizerInput] | Refused:
        if isinstance(request, Submit):
            return prompt_texts(self._backend, request)
        if isinstance(request, Rank):
            return ranking.texts_to_tokenise(self._backend, request)
        if not isinstance(request, Tokenize):
            return embeddings.texts_to_tokenise(self._backend, request)
        size = len(request.text.text.encode())
        if size > max(LARGE_TEXT_BYTES, self._backend.info.context * self._backend.max_token_bytes):
            return Refused(request.id, "invalid_prompt", f"{size} bytes are more than any prompt may have")
        return [
            TokenizerInput.of_prompt(request.text, parse_special=request.parse_special, add_special=request.add_special)
        ]

    def _on_tokenised(self, identity: int, outcome: TokenizeOutcome) -> None:
        """The request's texts are tokenised, or can't be. Called on any thread."""
        # The lock is held to the end, so a cancel finds the request either here or where it goes next.
        with self._lock:
            request = self._tokenising.pop(identity, None)
            if request is not None:
                self._guard(_ids(request), partial(self._take, request, outcome))

    def _take(self, request: _Request, outcome: TokenizeOutcome) -> None:
        """Answer the request, or hand it to the loop or to the grammar compiler."""
        if isinstance(outcome, TokenizationFailed):
            self._refuse(_ids(request), outcome.refusal(request.id))
        elif isinstance(request, Submit):
            self._take_submit(request, outcome)
        elif isinstance(request, Tokenize):
            self._send(Tokenized(request.id, outcome[0]))
        else:
            jobs = (
                ranking.make_jobs(self._backend, request, outcome)
                if isinstance(request, Rank)
                else embeddings.make_jobs(self._backend, request, outcome)
            )
            if isinstance(jobs, Refused):
                self._send(jobs)
            else:
                self._inbox.put(jobs)

    def _take_submit(self, submit: Submit, tokenised: list[list[int]]) -> None:
        sequences = build_sequences(self._backend, submit, tokenised)
        if isinstance(sequences, Refused):
            self._refuse(_ids(submit), sequences)
            return
        for sequence in sequences:
            work = partial(self._take_sequence, sequence, submit.params.grammar)
            self._guard(range(sequence.id, sequence.id + 1), work)

    def _take_sequence(self, sequence: Sequence, grammar: Grammar | None) -> None:
        """Accept the sequence, or have its grammar compiled."""
        if grammar is None:
            self._accept(sequence)
            return
        self._compiling[sequence.id] = sequence
        done = partial(self._on_compiled, sequence.id, grammar.triggers)
        self._compiler.request(sequence.id, sequence.caller, grammar, done)

    def _on_compiled(self, identity: int, triggers: LazyTriggers | None, outcome: CompileOutcome) -> None:
        """The sequence's grammar is compiled, or can't be. Called on any thread."""
        # The lock is held to the end, so a cancel finds the sequence either here or in the inbox.
        with self._lock:
            sequence = self._compiling.pop(identity, None)
            if sequence is not None:
                self._guard(range(identity, identity + 1), partial(self._take_compiled, sequence, triggers, outcome))

    def _take_compiled(self, sequence: Sequence, triggers: LazyTriggers | None, outcome: CompileOutcome) -> None:
        if not isinstance(outcome, GrammarError | CompilerUnavailable):
            sequence.constraint = self._compiler.constraint(
                outcome,
                # Log probabilities are of tokens that were sampled: there are no jump-forward tokens then.
                jump_forward=sequence.logprobs is None,
                reply_start="" if triggers is None else triggers.reply_start,
            )
            self._accept(sequence)
        elif triggers is not None and triggers.optional:
            self._accept(sequence)
        else:
            code: RefusalCode = "invalid_grammar" if isinstance(outcome, GrammarError) else "unavailable"
            self._send(Refused(sequence.id, code, str(outcome)))

    def _accept(self, sequence: Sequence) -> None:
        # Sent before the loop can know the sequence, so it always precedes the first token.
        self._send(Accepted(sequence.id, sequence.prompt_length))
        self._inbox.put(sequence)


def _ids(request: _Request) -> range:
    """The ids of the request's copies."""
    return range(request.id, request.id + (request.copies if isinstance(request, Submit) else 1))
