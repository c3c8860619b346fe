"""The engine's receiving thread: reads submits and cancels, tokenises, answers at once, and fills the loop's inbox.

It runs beside the loop so that a request is accepted or refused within milliseconds even while a step reads a long
prompt: llama.cpp's calls release the GIL. It decides nothing about scheduling and touches no sequence that the loop
owns.
"""

from __future__ import annotations

import queue
import threading
from functools import partial

import structlog

from tailrace.engine.backend import Backend
from tailrace.engine.disk import Fetched
from tailrace.engine.grammar.compiler import Compiler, Result
from tailrace.engine.grammar.source import GrammarError
from tailrace.engine.plain import tokens_of
from tailrace.engine.reading import Text, texts_of
from tailrace.engine.sequence import Sequence
from tailrace.engine.vocabulary import vocabulary_of
from tailrace.ipc import Channel
from tailrace.messages import Accepted, Cancel, Refused, Submit, ToEngine, Tokenize, Tokenized

#: What the loop reads: a sequence to run, an id to cancel, a kept state from the disk, texts to read, or None: the
#: connection is gone.
Inbox = queue.SimpleQueue[Sequence | int | Fetched | list[Text] | None]


#: Bytes of text beyond which a hopeless prompt is refused by its size.
_MUCH_TEXT = 1_000_000
#: Of a prediction at most so many characters are read for each token of the context: a reply can't be longer.
_HINT_CHARACTERS = 8


def prepare(backend: Backend, submit: Submit) -> Sequence | Refused:
    """A sequence ready to run, or why the submit can't be run."""
    context = backend.info.context
    size = len(backend.vocabulary)
    if not backend.info.generates:
        return Refused(submit.id, "unsupported", "this model makes embeddings and no text")
    if isinstance(submit.prompt, str):
        # Tokenising 30 MB takes seconds, in which nobody else is accepted; below a megabyte the true number is told.
        size_bytes = len(submit.prompt.encode())
        least = size_bytes // backend.longest_token
        if size_bytes > _MUCH_TEXT and least >= context:
            return _too_long(submit.id, context, least, f"at least {least}")
        if submit.suffix is None:
            tokens = tokens_of(backend, submit.prompt, submit.plain)
        else:
            tokens = backend.tokenize_inside(submit.prompt)
    else:
        tokens = submit.prompt
        if not all(0 <= token < size for token in tokens):
            return Refused(submit.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}")
    if submit.suffix is not None:
        if backend.infill is None:
            return Refused(submit.id, "unsupported", "this model has no tokens for filling in the middle")
        tokens = _infill(backend, backend.infill, tokens, submit.suffix)
    if not tokens:
        if backend.start_token is None:
            return Refused(submit.id, "invalid_prompt", "the prompt is empty, and this model has no start token")
        tokens = [backend.start_token]
    if len(tokens) >= context:
        return _too_long(submit.id, context, len(tokens), str(len(tokens)))
    bias = submit.sampling.logit_bias
    if not all(0 <= token < size for token in bias):
        return Refused(submit.id, "invalid_prompt", f"logit_bias: token ids must be between 0 and {size - 1}")
    hint = (submit.prediction or "")[: context * _HINT_CHARACTERS]
    prediction = backend.tokenize(hint)[:context] if hint else None
    return Sequence(submit, tokens, context, backend.end_tokens, prediction, vocabulary_of(backend))


def _infill(backend: Backend, marks: tuple[int, int, int], prefix: list[int], suffix: str) -> list[int]:
    """The order that models are trained on most: the text before, the text after, and then what stands between."""
    before, after, middle = marks
    start = backend.tokenize("", start=True)[:1]  # Some models want an end token around a text, too.
    start = start if start == [backend.start_token] else []
    return [*start, before, *prefix, after, *backend.tokenize_inside(suffix), middle]


def _too_long(identity: int, context: int, tokens: int, shown: str) -> Refused:
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but the prompt has {shown} tokens; "
        "one must be left for the reply. Shorten the prompt.",
        tokens,
        context,
    )


class Intake(threading.Thread):
    """Reads ``channel`` until it ends; then puts None into the inbox."""

    def __init__(
        self,
        channel: Channel[ToEngine],
        backend: Backend,
        inbox: Inbox,
        compiler: Compiler,
    ) -> None:
        super().__init__(name="intake", daemon=True)
        self._channel = channel
        self._backend = backend
        self._inbox = inbox
        self._compiler = compiler
        #: Sequences whose grammar is being compiled, on another thread: cancelling one takes it out.
        self._compiling: dict[int, Sequence] = {}
        self._lock = threading.Lock()
        self._log = structlog.get_logger()

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
            self._inbox.put(None)

    def _take(self, message: ToEngine) -> None:
        if isinstance(message, Cancel):
            with self._lock:
                compiling = self._compiling.pop(message.id, None)
            if compiling is None:
                self._inbox.put(message.id)
            return
        if isinstance(message, Tokenize):
            self._channel.send(self._tokenized(message))
            return
        if not isinstance(message, Submit):
            texts = texts_of(self._backend, message)
            if isinstance(texts, Refused):
                self._channel.send(texts)
            else:
                self._inbox.put(texts)
            return
        sequence = prepare(self._backend, message)
        if isinstance(sequence, Refused):
            self._channel.send(sequence)
        elif message.grammar is None:
            self._accept(sequence)
        else:
            with self._lock:
                self._compiling[message.id] = sequence
            optional = message.grammar.watch is not None and message.grammar.watch.optional
            self._compiler.request(message.grammar, partial(self._compiled, message.id, optional))

    def _tokenized(self, asked: Tokenize) -> Tokenized | Refused:
        size = len(asked.text.encode())
        if size > max(_MUCH_TEXT, self._backend.info.context * self._backend.longest_token):
            return Refused(asked.id, "invalid_prompt", f"{size} bytes are more than any prompt may have")
        if asked.plain and asked.special and asked.start is None:
            return Tokenized(asked.id, tokens_of(self._backend, asked.text, asked.plain))
        return Tokenized(asked.id, self._backend.tokenize(asked.text, special=asked.special, start=asked.start))

    def _compiled(self, identity: int, optional: bool, result: Result) -> None:
        """The sequence's grammar is there, or refused; one that is ``optional`` is then done without."""
        # The lock is held to the end, so that a cancel finds the sequence either here or in the inbox.
        with self._lock:
            sequence = self._compiling.pop(identity, None)
            if sequence is None:
                return
            try:
                if isinstance(result, GrammarError) and optional:
                    self._accept(sequence)
                    return
                if isinstance(result, GrammarError):
                    self._channel.send(Refused(identity, "invalid_grammar", str(result)))
                    return
                # With log probabilities every token is told with its own, so each is chosen by itself.
                sequence.constraint = self._compiler.constraint(result, fast_forward=sequence.logprobs is None)
                self._accept(sequence)
            except OSError as error:
                self._log.warning("connection to the HTTP process broke", error=str(error))

    def _accept(self, sequence: Sequence) -> None:
        # Accepted goes out before the loop can know the sequence, so it always precedes the first token.
        self._channel.send(Accepted(sequence.id, sequence.prompt_length))
        self._inbox.put(sequence)
