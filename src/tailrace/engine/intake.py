"""The engine's receiving thread: reads submits and cancels, has them tokenised, answers, and fills the loop's inbox.

It runs beside the loop so that a request is accepted or refused within milliseconds even while a step reads a long
prompt: llama.cpp's calls release the GIL. Long texts are tokenised elsewhere (``tokenising``), so nothing keeps it from
reading on. It decides nothing about scheduling and touches no sequence that the loop owns.
"""

from __future__ import annotations

import queue
import threading
from functools import partial

import structlog

from tailrace.engine import embeddings
from tailrace.engine.backends.base import Backend
from tailrace.engine.embeddings import EmbeddingJob
from tailrace.engine.kv_cache.disk_tier import Fetched
from tailrace.engine.sampling.logits_ops import all_but
from tailrace.engine.sampling.sampling_vocabulary import vocabulary_of
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.grammar_compiler import Compiler, Result
from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.engine.tokenising import tokenizer as tokenising
from tailrace.engine.tokenising.prompt_text import PromptText
from tailrace.engine.tokenising.tokenizer import Tokenizer, Unreadable
from tailrace.ipc import Channel
from tailrace.protocol import (
    Accepted,
    Cancel,
    Embed,
    Refused,
    RefusedField,
    Score,
    Submit,
    ToEngine,
    Tokenize,
    Tokenized,
    Watch,
)

#: What the loop reads: a sequence to run, an id to cancel, a kept state from the disk, texts to read, or None: the
#: connection is gone.
Inbox = queue.SimpleQueue[Sequence | int | Fetched | list[EmbeddingJob] | None]


#: Bytes of text beyond which a hopeless prompt is refused by its size.
_MUCH_TEXT = 1_000_000
#: Of a prediction at most so many characters are read for each token of the context: a reply can't be longer.
_HINT_CHARACTERS = 8
#: What short texts are tokenised on takes up to 3 MB; only what is used takes memory.
_STACK = 32 * 1024**2

Asked = Submit | Tokenize | Embed | Score


def prepare(backend: Backend, submit: Submit) -> Sequence | Refused:
    """A sequence ready to run, or why the submit can't be run. Its texts are the caller's own: they are tokenised here,
    whatever that takes.
    """
    texts = to_tokenise(backend, submit)
    if isinstance(texts, Refused):
        return texts
    return sequence_of(backend, submit, [backend.tokens_of(text) for text in texts])


def to_tokenise(backend: Backend, submit: Submit) -> list[PromptText] | Refused:
    """The texts whose tokens ``sequence_of`` needs, or why the submit can't be run."""
    context = backend.info.context
    if not backend.info.generates:
        return Refused(submit.id, "unsupported", "this model makes embeddings and no text")
    if submit.params.suffix is not None and backend.infill is None:
        return Refused(submit.id, "unsupported", "this model has no tokens for filling in the middle")
    texts: list[PromptText] = []
    if isinstance(submit.prompt, str):
        # Tokenising 30 MB takes seconds, in which nobody else is accepted; below a megabyte the true number is told.
        size_bytes = len(submit.prompt.encode())
        least = size_bytes // backend.longest_token
        if size_bytes > _MUCH_TEXT and least >= context:
            return _too_long(submit.id, context, least, f"at least {least}")
        texts.append(
            PromptText(submit.prompt, plain=submit.plain)
            if submit.params.suffix is None
            else PromptText(submit.prompt, special=False, start=False)
        )
    if submit.params.suffix is not None:
        least = len(submit.params.suffix.encode()) // backend.longest_token
        if least >= context:
            return _too_long(submit.id, context, least, f"at least {least}", "suffix")
        texts.append(PromptText(submit.params.suffix, "suffix", special=False, start=False))
    if submit.params.prediction:
        texts.append(PromptText(submit.params.prediction[: context * _HINT_CHARACTERS], "prediction"))
    return texts


def sequence_of(backend: Backend, submit: Submit, tokenised: list[list[int]]) -> Sequence | Refused:
    """A sequence ready to run, or why the submit can't be run. ``tokenised`` has the tokens of ``to_tokenise``'s texts,
    which become the sequence's own.
    """
    context = backend.info.context
    size = len(backend.vocabulary)
    of_texts = iter(tokenised)
    if isinstance(submit.prompt, str):
        tokens = next(of_texts)
    else:
        tokens = submit.prompt
        if not all(0 <= token < size for token in tokens):
            return Refused(submit.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}")
    if submit.params.suffix is not None:
        tokens = _infill(backend, tokens, next(of_texts))
    if not tokens:
        if backend.start_token is None:
            return Refused(submit.id, "invalid_prompt", "the prompt is empty, and this model has no start token")
        tokens = [backend.start_token]
    if len(tokens) >= context:
        return _too_long(submit.id, context, len(tokens), str(len(tokens)))
    bias = submit.params.sampling.logit_bias
    if not all(0 <= token < size for token in bias):
        return Refused(submit.id, "invalid_prompt", f"token ids must be between 0 and {size - 1}", field="logit_bias")
    prediction = next(of_texts)[:context] if submit.params.prediction else None
    sequence = Sequence(submit, tokens, context, backend.end_tokens, prediction, vocabulary_of(backend))
    if submit.params.min_tokens:
        sequence.min_tokens_mask = all_but(backend.end_tokens.union(submit.params.stop_tokens), size)
    return sequence


def _infill(backend: Backend, prefix: list[int], suffix: list[int]) -> list[int]:
    """The order that models are trained on most: the text before, the text after, and then what stands between."""
    assert backend.infill is not None, "it has been looked at before the texts were tokenised"
    before, after, middle = backend.infill
    start = backend.tokenize("", start=True)[:1]  # Some models want an end token around a text, too.
    start = start if start == [backend.start_token] else []
    return [*start, before, *prefix, after, *suffix, middle]


def _too_long(identity: int, context: int, tokens: int, shown: str, field: RefusedField = "prompt") -> Refused:
    return Refused(
        identity,
        "context_length_exceeded",
        f"This model's maximum context length is {context} tokens, but the {field} has {shown} tokens; "
        f"one must be left for the reply. Shorten the {field}.",
        tokens,
        context,
        field,
    )


class Intake(threading.Thread):
    """Reads ``channel`` until it ends; then puts None into the inbox."""

    def __init__(
        self,
        channel: Channel[ToEngine],
        backend: Backend,
        inbox: Inbox,
        compiler: Compiler,
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
        texts = self._to_tokenise(message)
        if isinstance(texts, Refused):
            self._channel.send(texts)
            return
        with self._lock:
            self._tokenising[message.id] = message
        self._tokenizer.request(message.id, texts, partial(self._tokenised, message.id))

    def _to_tokenise(self, asked: Asked) -> list[PromptText] | Refused:
        if isinstance(asked, Submit):
            return to_tokenise(self._backend, asked)
        if not isinstance(asked, Tokenize):
            return embeddings.texts_to_tokenise(self._backend, asked)
        size = len(asked.text.encode())
        if size > max(_MUCH_TEXT, self._backend.info.context * self._backend.longest_token):
            return Refused(asked.id, "invalid_prompt", f"{size} bytes are more than any prompt may have")
        return [PromptText(asked.text, special=asked.special, start=asked.start, plain=asked.plain)]

    def _tokenised(self, identity: int, result: tokenising.Result) -> None:
        """What was to be tokenised has been, on whatever thread; or it can't be."""
        # The lock is held to the end, so that a cancel finds the request either here or where it goes from here.
        with self._lock:
            asked = self._tokenising.pop(identity, None)
            if asked is None:
                return
            try:
                if isinstance(result, Unreadable):
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
        sequence = sequence_of(self._backend, submit, tokenised)
        if isinstance(sequence, Refused):
            self._channel.send(sequence)
        elif submit.params.grammar is None:
            self._accept(sequence)
        else:
            self._compiling[submit.id] = sequence
            done = partial(self._compiled, submit.id, submit.params.grammar.watch)
            self._compiler.request(submit.params.grammar, done, partial(self._compiling.__contains__, submit.id))

    def _compiled(self, identity: int, watch: Watch | None, result: Result) -> None:
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
