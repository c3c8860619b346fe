"""The fields that Ollama's chat and generate share, and what they ask of the engine."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.messages import Grammar
from tailrace.server.dialects.ollama import options as option
from tailrace.server.dialects.ollama.options import Options
from tailrace.server.generate import GenerationRequest

_ANY_OBJECT = Grammar(kind="json_schema", text='{"type": "object"}')
#: A duration as Go writes it, or a plain number of seconds.
_DURATION = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)?")
_DURATIONS = re.compile(r"[-+]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+")


class SharedFields(msgspec.Struct, kw_only=True):
    """Fields of both requests; null equals absent everywhere. Streaming is the default."""

    model: str | None = None
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    think: bool | Literal["", "low", "medium", "high"] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def streams(self) -> bool:
        """Whether the reply comes line by line."""
        return self.stream is not False


def check(fields: SharedFields) -> None:
    """Raise InvalidRequest for what can't be honoured, whatever the request is about."""
    unloads(fields.keep_alive)
    option.refuse_unsupported(fields.options or Options())
    if fields.shift:
        raise _unsupported("shift", "contexts are never shifted: a reply ends with 'length' where the context is full.")
    if fields.debug_render_only:
        raise _unsupported("_debug_render_only", "leave it out.")
    if fields.top_logprobs and not fields.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")


def unloads(keep_alive: float | str | None) -> bool:
    """Whether ``keep_alive`` asks for an end at once. Raises InvalidRequest when it is no duration."""
    if not isinstance(keep_alive, str):
        return keep_alive == 0
    if not (_DURATION.fullmatch(keep_alive) or _DURATIONS.fullmatch(keep_alive)):
        raise InvalidRequest(
            "Invalid value for 'keep_alive': not a duration such as '5m', '1h30m' or a number of seconds.",
            param="keep_alive",
        )
    return not re.search("[1-9]", keep_alive)


def refuse_images(images: list[Any] | None, param: str) -> None:
    """Raise InvalidRequest when there are any."""
    if images:
        raise InvalidRequest(
            f"'{param}': this model reads text alone; leave the images out.", param=param, code="unsupported_value"
        )


def grammar(fields: SharedFields) -> Grammar | None:
    """What the reply must look like."""
    if not fields.format and fields.format != {}:
        return None
    if fields.format == "json":
        return _ANY_OBJECT
    return Grammar(kind="json_schema", text=msgspec.json.encode(fields.format).decode())


def generation(fields: SharedFields, prompt: str, *, prompt_param: str, chat: bool) -> GenerationRequest:
    """What the fields ask of the engine for this prompt; ``chat``: the reply may have reasoning in it.

    Raises InvalidRequest.
    """
    options = fields.options or Options()
    return GenerationRequest(
        prompts=[prompt],
        prompt_param=prompt_param,
        max_tokens=option.max_tokens(options),
        sampling=option.sampling(options),
        stops=option.stops(options),
        logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        grammar=grammar(fields),
        grammar_param="format",
        chat=chat,
    )


def thinking(think: bool | str | None) -> dict[str, Any]:
    """The template's variables for ``think``, under the names that models' templates have for it."""
    if think is None or think == "":
        return {}
    variables: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    if isinstance(think, str):
        variables["reasoning_effort"] = think
    return variables


def _unsupported(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
