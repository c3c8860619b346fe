"""OpenAI's older text completions: ``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.openai.grammar import grammar
from tailrace.server.dialects.openai.reply import ReplyHead, StreamEnds, chunk_prefix, completion_object
from tailrace.server.dialects.openai.sampling import SharedParameters, TokenId, refuse, sampling, stops
from tailrace.server.events import Event, Failure, Finish, KeepAlive, TextDelta, TokenLogprob, Usage
from tailrace.server.generate import GenerationRequest
from tailrace.server.transcript import Reply, Transcript

#: Replies of one request: prompts times n.
_MOST_CHOICES = 128


class CompletionRequest(SharedParameters):
    """The body of a text completion."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=16_777_216)]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


_SUPPORTED: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",)}
_WHY = {"echo": "repeating the prompt is not supported so far.", "suffix": "insertion is not supported so far."}
#: What the API's reference gives when max_tokens is absent.
_DEFAULT_MAX_TOKENS = 16

decoder = msgspec.json.Decoder(CompletionRequest)


def prepare(request: CompletionRequest) -> GenerationRequest:
    """What the request asks of the engine. Raises InvalidRequest."""
    refuse(request, _SUPPORTED, _WHY)
    choices = request.n or 1
    if request.best_of is not None and request.best_of != choices:
        raise InvalidRequest("'best_of' other than 'n' is not supported so far.", param="best_of")
    prompts = _prompts(request.prompt)
    form, form_field = grammar(request)
    if len(prompts) * choices > _MOST_CHOICES:
        raise InvalidRequest(f"One request may have at most {_MOST_CHOICES} replies (prompts × n).", param="prompt")
    return GenerationRequest(
        prompts=prompts,
        prompt_param="prompt",
        choices=choices,
        max_tokens=request.max_tokens or _DEFAULT_MAX_TOKENS,
        sampling=sampling(request),
        stops=stops(request),
        stop_tokens=tuple(request.stop_token_ids or ()),
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority or 0,
        logprobs=request.logprobs,
        grammar=form,
        grammar_param=form_field,
    )


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One or several prompts, as text or token ids: the four forms of the API."""
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    texts = [item for item in prompt if isinstance(item, str)]
    lists = [item for item in prompt if isinstance(item, list)]
    if len(texts) == len(prompt):
        return [*texts]
    if len(lists) == len(prompt):
        return [*lists]
    raise InvalidRequest("'prompt' must be a string, strings, token ids or lists of token ids.", param="prompt")


def completion(head: ReplyHead, transcript: Transcript) -> dict[str, Any]:
    """The body for a client that doesn't stream."""
    return completion_object(head, "text_completion", transcript, _whole)


def _whole(index: int, reply: Reply) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "text": reply.text, "finish_reason": reply.finish_reason}
    if reply.logprobs:
        choice["logprobs"] = _logprobs(reply.logprobs, 0)
    return choice


def _logprobs(entries: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """The older form: parallel lists. ``offset`` is the length of the text before the first token."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.text)
    return {
        "tokens": [entry.text for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{text: value for text, _, value in entry.top} for entry in entries],
        "text_offset": offsets,
    }


class CompletionStream:
    """Encodes a text completion's stream. See ``Encoder``."""

    def __init__(self, head: ReplyHead, choices: int, *, wants_usage: bool, comments: bool) -> None:
        self._offsets = [0] * choices
        self._prefix = chunk_prefix(head, "text_completion")
        # All of a chunk but its text, made once: one encode and one join a token.
        self._before_text = [self._prefix + b'{"index":%d,"text":' % index for index in range(choices)]
        self._ends = StreamEnds(
            self._prefix,
            lambda index, text: self._chunk(index, text, None),
            choices,
            wants_usage=wants_usage,
            comments=comments,
        )

    def start(self) -> list[bytes]:
        """An empty text: a sign of life before the first token."""
        return [self._chunk(0, "", None)]

    def encode(self, event: Event) -> list[bytes]:
        """One chunk, except for a failure (two) and usage that nobody asked for (none)."""
        if isinstance(event, TextDelta):
            if event.logprobs is None:
                self._offsets[event.choice] += len(event.text)
                text = msgspec.json.encode(event.text)
                return [self._before_text[event.choice] + text + b',"finish_reason":null}]}\n\n']
            return [self._chunk(event.choice, event.text, None, event.logprobs)]
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

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._ends.end()

    def _chunk(self, index: int, text: str, finish: str | None, logprobs: list[TokenLogprob] | None = None) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": finish}
        if logprobs is not None:
            choice["logprobs"] = _logprobs(logprobs, self._offsets[index])
        self._offsets[index] += len(text)
        return self._prefix + msgspec.json.encode(choice) + b"]}\n\n"
