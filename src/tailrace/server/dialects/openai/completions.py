"""OpenAI's older text completions: ``POST /v1/completions``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import inf
from statistics import fmean
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.prompt_text import PromptText
from tailrace.server.collected_reply import CollectedChoice, CollectedReply
from tailrace.server.dialects.openai import llama_vllm_fields
from tailrace.server.dialects.openai.common_fields import TokenId
from tailrace.server.dialects.openai.echo import Echo
from tailrace.server.dialects.openai.generation_params import SharedParameters, generation_params, limit, refuse, stops
from tailrace.server.dialects.openai.grammar import grammar
from tailrace.server.dialects.openai.legacy_logprobs import Offsets, logprobs_object
from tailrace.server.dialects.openai.reply import ReplyHead, StreamEnds, chunk_prefix, completion_object
from tailrace.server.events import Event, Failure, Finish, KeepAlive, TextDelta, TokenLogprob, Usage
from tailrace.server.generation_request import GenerationRequest

#: Replies of one request: prompts times n, or times best_of.
_MAX_CHOICES = 128


class CompletionRequest(SharedParameters, kw_only=True):
    """The body of a text completion."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=16_777_216)]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1, le=_MAX_CHOICES)] | None = None
    # vLLM's: refused
    prompt_embeds: Any = None

    @property
    def sampled_choices(self) -> int:
        """Replies to each prompt, of which ``n`` are shown."""
        return max(self.best_of or 1, self.returned_choices)

    @property
    def returned_choices(self) -> int:
        """Replies to each prompt that the client gets."""
        return self.n or self.n_cmpl or 1

    @property
    def requested_logprobs(self) -> int | None:
        """The number of likely tokens reported for each token of the reply; None: no log probabilities."""
        return self.logprobs if self.logprobs is not None else self.n_probs or None

    @property
    def picks_best(self) -> bool:
        """Whether some of the replies aren't shown."""
        return self.sampled_choices > self.returned_choices


_SUPPORTED: dict[str, tuple[Any, ...]] = {"prompt_embeds": ()}
_WHY = {
    "prompt_embeds": "prompts are text or token ids.",
}
#: The API reference's default of max_tokens.
_DEFAULT_MAX_TOKENS = 16

decoder = msgspec.json.Decoder(CompletionRequest)


def prepare(request: CompletionRequest) -> GenerationRequest:
    """Translate the request into a generation. Raises InvalidRequest."""
    request.check_stream_options()
    refuse(request, llama_vllm_fields.SUPPORTED, llama_vllm_fields.WHY)
    refuse(request, _SUPPORTED, _WHY)
    if request.best_of is not None and request.best_of < request.returned_choices:
        raise InvalidRequest("'best_of' must be at least 'n'.", param="best_of")
    if request.picks_best and request.stream:
        raise InvalidRequest("'best_of' over 'n' can't be streamed: the end tells which is best.", param="best_of")
    if request.max_tokens == 0:
        if not request.echo:
            raise InvalidRequest("'max_tokens' may be 0 only with 'echo': true.", param="max_tokens")
        if request.stream:
            raise InvalidRequest("'max_tokens' may be 0 only without 'stream'.", param="max_tokens")
    if request.echo and request.suffix and request.requested_logprobs is not None:
        raise InvalidRequest("'echo' has no log probabilities of a prompt with a 'suffix'.", param="echo")
    prompts = _prompts(request.prompt)
    form, form_field = grammar(request)
    if len(prompts) * request.sampled_choices > _MAX_CHOICES:
        raise InvalidRequest(
            f"One request may have at most {_MAX_CHOICES} replies (prompts × n or best_of).", param="prompt"
        )
    max_tokens = None
    if request.max_tokens != 0:
        max_tokens = limit(request, "n_predict", "max_tokens", default=_DEFAULT_MAX_TOKENS)
    return GenerationRequest(
        prompts=prompts,
        prompt_param="prompt",
        choices=request.sampled_choices,
        params=msgspec.structs.replace(
            generation_params(request, max_tokens),
            logprobs=0 if request.requested_logprobs is None and request.picks_best else request.requested_logprobs,
            grammar=form,
            suffix=request.suffix or None,
        ),
        stops=stops(request),
        keep_stop=bool(request.include_stop_str_in_output),
        grammar_param=form_field,
    )


def _prompts(prompt: str | list[str | int | list[int]]) -> list[PromptText | list[int]]:
    """One or several prompts, as text or token ids: the four forms of the API."""
    if isinstance(prompt, str):
        return [PromptText(prompt)]
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    texts = [item for item in prompt if isinstance(item, str)]
    lists = [item for item in prompt if isinstance(item, list)]
    if len(texts) == len(prompt):
        return [PromptText(text) for text in texts]
    if len(lists) == len(prompt):
        return [*lists]
    raise InvalidRequest("'prompt' must be a string, strings, token ids or lists of token ids.", param="prompt")


def completion(
    head: ReplyHead, request: CompletionRequest, transcript: CollectedReply, echoes: list[Echo]
) -> dict[str, Any]:
    """The body of a reply that isn't streamed. ``echoes`` has one entry for each prompt, where the request asks for
    them.
    """
    shown = request.returned_choices

    def choice_object(index: int, reply: CollectedChoice) -> dict[str, Any]:
        return _choice_object(index, reply, echoes[index // shown] if echoes else None)

    if request.picks_best:
        transcript = dataclasses.replace(transcript, replies=_best(transcript.replies, request))
    return completion_object(head, "text_completion", transcript, choice_object)


def _best(replies: list[CollectedChoice], request: CompletionRequest) -> list[CollectedChoice]:
    """The ``n`` best replies to each prompt, by the mean log probability of their tokens, best first."""

    def mean(reply: CollectedChoice) -> float:
        return fmean(entry.logprob for entry in reply.logprobs) if reply.logprobs else -inf

    best: list[CollectedChoice] = []
    for start in range(0, len(replies), request.sampled_choices):
        tried = sorted(replies[start : start + request.sampled_choices], key=mean, reverse=True)
        best += tried[: request.returned_choices]
    if request.requested_logprobs is not None:
        return best
    return [dataclasses.replace(reply, logprobs=CollectedChoice().logprobs) for reply in best]


def _choice_object(index: int, reply: CollectedChoice, echo: Echo | None) -> dict[str, Any]:
    text = reply.text if echo is None else echo.text + reply.text
    found: dict[str, Any] | None = None
    if reply.logprobs:
        offsets = Offsets(0 if echo is None else len(echo.text))
        found = logprobs_object(reply.logprobs, offsets.next_offsets(reply.logprobs, len(text)))
    if echo is not None and echo.entries:
        before = echo.logprobs()
        found = before if found is None else {name: before[name] + found[name] for name in before}
    return {"index": index, "text": text, "logprobs": found, "finish_reason": reply.finish_reason}


class CompletionStream:
    """Encodes a text completion's stream. See ``Encoder``."""

    def __init__(
        self, head: ReplyHead, choices: int, *, wants_usage: bool, comments: bool, echoes: Sequence[Echo] = ()
    ) -> None:
        """``echoes`` has one entry for each prompt, in order, where the request asks for them."""
        self._echoes = echoes
        self._choices = choices
        self._lengths = [0] * choices  #: of the text that has been sent
        self._offsets: list[Offsets | None] = [None] * choices
        self._prefix = chunk_prefix(head, "text_completion")
        # The constant part of a chunk, made once: a token costs one encode and one join.
        self._before_text = [self._prefix + b'{"index":%d,"text":' % index for index in range(choices)]
        self._start: list[bytes] | None = None
        self._ends = StreamEnds(
            self._prefix,
            lambda index, text: self._chunk(index, text, None),
            choices,
            wants_usage=wants_usage,
            comments=comments,
        )

    def prepare(self) -> None:
        """Make what ``start`` returns. It takes time in proportion to the echoes."""
        if not self._echoes:
            self._start = [self._chunk(0, "", None)]
            return
        each = self._choices // len(self._echoes)
        self._start = [
            self._chunk(index, text, None, found)
            for index in range(self._choices)
            for text, found in self._echoes[index // each].stream()
        ]

    def start(self) -> list[bytes]:
        """The echoed prompts; without echo an empty text, as a keep-alive before the first token."""
        if self._start is None:
            self.prepare()
        pieces, self._start = self._start or [], None
        return pieces

    def encode(self, event: Event) -> list[bytes]:
        """One chunk; two for a failure, none for usage that the request doesn't ask for."""
        if isinstance(event, TextDelta):
            if event.logprobs is None:
                self._lengths[event.choice] += len(event.text)
                text = msgspec.json.encode(event.text)
                return [self._before_text[event.choice] + text + b',"finish_reason":null}]}\n\n']
            return [self._chunk(event.choice, event.text, None, self._logprobs(event, event.logprobs))]
        if isinstance(event, Finish):
            self._ends.finished(event.choice)
            return [self._chunk(event.choice, "", event.reason)]
        if isinstance(event, Usage):
            return self._ends.usage(event)
        if isinstance(event, KeepAlive):
            return self._ends.keep_alive()
        if isinstance(event, Failure):
            return self._ends.failure(event.error)
        raise AssertionError(f"a text completion has no {type(event).__name__}")

    def _logprobs(self, event: TextDelta, entries: list[TokenLogprob]) -> dict[str, Any]:
        sent = self._lengths[event.choice]
        if (offsets := self._offsets[event.choice]) is None:
            # Before the first token's chunk, only the prompt has been sent.
            offsets = self._offsets[event.choice] = Offsets(sent)
        return logprobs_object(entries, offsets.next_offsets(entries, sent + len(event.text)))

    def empty(self, choice: int) -> list[bytes]:
        """See ``MeasuredStream``."""
        return [self._chunk(choice, "", None)]

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._ends.end()

    def _chunk(self, index: int, text: str, finish: str | None, logprobs: dict[str, Any] | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": finish}
        if logprobs is not None:
            choice["logprobs"] = logprobs
        self._lengths[index] += len(text)
        return self._prefix + msgspec.json.encode(choice) + b"]}\n\n"
