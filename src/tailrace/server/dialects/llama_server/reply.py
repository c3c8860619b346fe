"""llama-server's replies: one object for a reply, or a stream of them that ends with the one whose ``stop`` is true."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.prompt_text import PromptText
from tailrace.protocol import TokenLogprobs
from tailrace.server import sse
from tailrace.server.collected_reply import CollectedReply
from tailrace.server.dialects.llama_server.errors import error_object
from tailrace.server.dialects.llama_server.prepare import settings_object
from tailrace.server.dialects.llama_server.request_fields import NativeFields
from tailrace.server.dialects.openai.timing_fields import progress_object
from tailrace.server.dialects.openai.tokenize_bodies import piece_of, text_of
from tailrace.server.events import Event, Failure, Finish, KeepAlive, PromptProgress, TextDelta, Timed, Usage
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.tracked_choice import TrackedChoice

#: A prompt of more characters or tokens is repeated only in the first of several replies to it.
_REPEATED = 16_384


class ReplyBuilder:
    """Makes the objects of one request's replies."""

    def __init__(
        self,
        request: NativeFields,
        generation_request: GenerationRequest,
        generation: Generation,
        model: ServedModel,
        model_name: str,
    ) -> None:
        self.choices: list[TrackedChoice] = generation.tracked
        self._request = request
        self._generation_request = generation_request
        self._model = model
        self._model_name = model_name
        self._after_sampling = generation_request.params.logprobs_after_sampling
        self._settings = settings_object(request, generation_request)
        self._slot = -1 if request.id_slot is None else request.id_slot

    def partial(
        self, index: int, text: str, tokens: Sequence[tuple[int, TokenLogprobs | None]], generated: int
    ) -> dict[str, Any]:
        """A piece of a reply; with its ``tokens`` the reply has so many ``generated``."""
        fields: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": [token for token, _ in tokens],
            "stop": False,
            "id_slot": self._slot,
            "tokens_predicted": generated,
            "tokens_evaluated": self.choices[index].prompt_tokens,
        }
        if probabilities := self.probabilities(tokens):
            fields["completion_probabilities"] = probabilities
        return fields

    def final(
        self,
        index: int,
        finish: Finish,
        text: str,
        *,
        has_new_line: bool,
        tokens: Sequence[int] = (),
        probabilities: Sequence[dict[str, Any]] = (),
    ) -> dict[str, Any]:
        """The end of a reply, or a complete reply, reduced to the requested fields."""
        choice = self.choices[index]
        used = choice.prompt_tokens + choice.n_tokens
        fields: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": list(tokens),
            "id_slot": self._slot,
            "stop": True,
            "model": self._model_name,
            "tokens_predicted": choice.n_tokens,
            "tokens_evaluated": choice.prompt_tokens,
            "generation_settings": self._settings,
            "prompt": self._prompt(index),
            "has_new_line": has_new_line,
            "truncated": finish.reason == "length" and used >= self._model.info.context,
            "stop_type": _stop_type(finish),
            "stopping_word": finish.stop or "",
            "tokens_cached": used,
            "timings": msgspec.to_builtins(choice.timings),
        }
        if probabilities:
            fields["completion_probabilities"] = probabilities
        return selected(fields, self._request.response_fields or ())

    def probabilities(self, tokens: Iterable[tuple[int, TokenLogprobs | None]]) -> list[dict[str, Any]]:
        """``completion_probabilities`` of the tokens that have some."""
        top = "top_probs" if self._after_sampling else "top_logprobs"
        return [
            {**self._entry(token, found.logprob), top: [self._entry(other, value) for other, value in found.top]}
            for token, found in tokens
            if found is not None
        ]

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = piece_of(token, self._model.vocabulary, self._model.info)
        entry: dict[str, Any] = {"id": token, "token": raw.decode("utf-8", "ignore"), "bytes": list(raw)}
        if self._after_sampling:
            return {**entry, "prob": math.exp(logprob)}
        return {**entry, "logprob": logprob}

    def _prompt(self, index: int) -> str:
        number, repeated = divmod(index, self._generation_request.choices)
        prompt = self._generation_request.prompts[number]
        if repeated and len(prompt if isinstance(prompt, list) else prompt.text) > _REPEATED:
            return ""
        if isinstance(prompt, PromptText):
            return prompt.text
        return text_of(prompt, self._model.vocabulary, self._model.info, param=self._generation_request.prompt_param)


def reply_body(reporter: ReplyBuilder, transcript: CollectedReply, *, tokens: bool) -> Any:
    """The body for a client that doesn't stream: an object, or a list of them; ``tokens``: with the replies' ids."""
    bodies = [
        reporter.final(
            index,
            Finish(index, reply.finish_reason, reply.stop),
            reply.text,
            has_new_line="\n" in reply.text,
            tokens=[token for token, _ in reply.tokens] if tokens else (),
            probabilities=reporter.probabilities(reply.tokens),
        )
        for index, reply in enumerate(transcript.replies)
    ]
    return bodies[0] if len(bodies) == 1 else bodies


class NativeStream:
    """Encodes a stream. See ``Encoder``."""

    def __init__(self, reporter: ReplyBuilder) -> None:
        self._reporter = reporter
        self._lines = [False] * len(reporter.choices)
        self._generated = [0] * len(reporter.choices)

    def start(self) -> list[bytes]:
        """Empty: the first event has content."""
        return []

    def encode(self, event: Event) -> list[bytes]:
        """One event, or none."""
        if isinstance(event, Timed):
            fields = self._object(event.event)
            return [] if fields is None else [_event({"timings": event.timings, **fields})]
        if (fields := self._object(event)) is not None:
            return [_event(fields)]
        if isinstance(event, Usage):
            return []
        if isinstance(event, KeepAlive):
            return [sse.COMMENT]
        assert isinstance(event, Failure), "a completion's text is all that there is"
        return [error_event(event.error)]

    def _object(self, event: Event) -> dict[str, Any] | None:
        """The object of an event of a choice; None for other events."""
        reporter = self._reporter
        if isinstance(event, TextDelta):
            tokens = event.tokens or ()
            self._lines[event.choice] = self._lines[event.choice] or "\n" in event.text
            self._generated[event.choice] += len(tokens)
            return reporter.partial(event.choice, event.text, tokens, self._generated[event.choice])
        if isinstance(event, PromptProgress):
            fields = reporter.partial(event.choice, "", (), 0)
            return {**fields, "prompt_progress": progress_object(event)}
        if isinstance(event, Finish):
            return reporter.final(event.choice, event, "", has_new_line=self._lines[event.choice])
        return None

    def end(self) -> bytes:
        """Empty: the last object has ``stop``."""
        return b""


def error_event(error: RequestError) -> bytes:
    """The last event of a stream that fails."""
    return _event(error_object(error))


def selected(fields: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The values at ``paths`` (``timings/prompt_n``), each under its path; unknown paths are left out. Without paths,
    all fields.
    """
    if not paths:
        return fields
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = fields
        for key in path.split("/"):
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            found[path] = value
    return found


def _stop_type(finish: Finish) -> str:
    if finish.reason == "length":
        return "limit"
    return "word" if finish.stop is not None else "eos"


def _event(fields: object) -> bytes:
    return sse.event(msgspec.json.encode(fields))
