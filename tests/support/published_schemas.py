"""Judges replies by the schemas that OpenAI and Anthropic publish: the models of their own Python packages.

Three things are reported: a value that the model doesn't take (types aren't converted), a key that it doesn't know, and
a key that the API's reference requires though its value may be null, which the packages' models can't tell from an
optional one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

#: Keys that the references require and whose value may be null, by the package's model.
NULLABLE: Mapping[str, Set[str]] = {
    "openai.types.chat.chat_completion.Choice": {"logprobs"},
    "openai.types.chat.chat_completion.ChoiceLogprobs": {"content", "refusal"},
    "openai.types.chat.chat_completion_message.ChatCompletionMessage": {"content", "refusal"},
    "openai.types.chat.chat_completion_chunk.Choice": {"finish_reason"},
    "openai.types.chat.chat_completion_token_logprob.ChatCompletionTokenLogprob": {"bytes"},
    "openai.types.chat.chat_completion_token_logprob.TopLogprob": {"bytes"},
    "openai.types.responses.response.Response": {"error", "incomplete_details", "instructions", "metadata"},
    "openai.types.shared.error_object.ErrorObject": {"code", "param"},
    "anthropic.types.message.Message": {"stop_reason", "stop_sequence"},
    "anthropic.types.usage.Usage": {"cache_creation_input_tokens", "cache_read_input_tokens"},
    "anthropic.types.raw_message_delta_event.Delta": {"stop_reason", "stop_sequence"},
}


def problems(kind: Any, body: bytes, allowed: Set[str] = frozenset()) -> list[str]:
    """What is wrong with the JSON ``body`` as a ``kind`` of a package; ``allowed`` are paths of documented extensions,
    with ``[]`` for an item of a list.
    """
    try:
        value = TypeAdapter(kind).validate_json(body, strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return [problem for problem in _walk(value, "") if problem.removeprefix("unknown: ") not in allowed]


def _walk(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        kind = type(value)
        for name in NULLABLE.get(f"{kind.__module__}.{kind.__name__}", ()):
            if name not in value.model_fields_set:
                yield f"missing: {path}.{name}"
        for name in value.model_extra or ():
            yield f"unknown: {path}.{name}"
        for name in kind.model_fields:
            yield from _walk(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, f"{path}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, f"{path}.{name}")
