"""OpenAI's chat completions: ``POST /v1/chat/completions``.

Requests follow the API reference. The stream follows the rules of ``docs/wire.md``, which real clients and relays need.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.messages import Message, text_part
from tailrace.errors import InvalidRequest
from tailrace.server.chat_request import Continued, FieldNames, chat_request
from tailrace.server.collected_reply import CollectedChoice, CollectedReply
from tailrace.server.dialects.openai.chat_llama_vllm_fields import (
    ChatExtensions,
    check,
    template_variables,
    thinking_options,
    wants_inline_reasoning,
)
from tailrace.server.dialects.openai.common_fields import Limit
from tailrace.server.dialects.openai.generation_params import generation_params, limit, refuse, stops
from tailrace.server.dialects.openai.grammar import grammar
from tailrace.server.dialects.openai.past_tool_calls import (
    PastFunctionCall,
    PastToolCall,
    link_function_results,
    past_legacy_call,
    past_tool_call,
)
from tailrace.server.dialects.openai.reply import ReplyHead, StreamEnds, chunk_prefix, completion_object, logprob_object
from tailrace.server.dialects.openai.tool_call_deltas import CallDeltas, finish_reason, message_fields
from tailrace.server.dialects.openai.tools import FunctionDefinition, Tool, Toolset, legacy_toolset, toolset
from tailrace.server.events import (
    Event,
    Finish,
    KeepAlive,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    Timed,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel

# Request


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A text among a message's parts."""

    text: str


class InputTextPart(TextPart, tag_field="type", tag="input_text"):
    """The same by the name that Responses have for it."""


class OutputTextPart(TextPart, tag_field="type", tag="output_text"):
    """The same in an earlier reply."""


class ThinkingPart(msgspec.Struct, tag_field="type", tag="thinking"):
    """Earlier reasoning. The template gets it as text, as in vLLM."""

    thinking: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """An earlier refusal of the assistant."""

    refusal: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """An image: known, and refused by models that can't see."""


class AudioPart(msgspec.Struct, tag_field="type", tag="input_audio"):
    """Audio: known, and refused by models that can't hear."""


class FilePart(msgspec.Struct, tag_field="type", tag="file"):
    """A file: known, and refused."""


Part = TextPart | InputTextPart | OutputTextPart | ThinkingPart | RefusalPart | ImagePart | AudioPart | FilePart


class ChatMessage(msgspec.Struct):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[PastToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    function_call: PastFunctionCall | None = None
    #: The newer name; templates know ``reasoning_content``.
    reasoning: str | None = None
    refusal: str | None = None
    audio: Any = None
    prefix: bool | None = None
    partial: bool | None = None

    @property
    def is_prefix(self) -> bool:
        """Whether an assistant's message is only the beginning: ``prefix`` is Mistral's and DeepSeek's word for it,
        ``partial`` Moonshot's and Qwen's.
        """
        return self.role == "assistant" and bool(self.prefix or self.partial)


class Prediction(msgspec.Struct):
    """The predicted reply, such as a file with a few changes."""

    type: Literal["content"]
    content: str | list[TextPart]


class ChatRequest(ChatExtensions):
    """The body of a chat completion."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    prediction: Prediction | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: str | dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        """How many replies there are."""
        return self.n or self.n_cmpl or 1


#: The supported values of fields that aren't fully supported.
_SUPPORTED: dict[str, tuple[Any, ...]] = {"modalities": (["text"],), "audio": (), "web_search_options": ()}
_WHY = {
    "modalities": "only ['text'] is supported.",
    "audio": "audio output is not supported.",
    "web_search_options": "web search is not supported.",
}

decoder = msgspec.json.Decoder(ChatRequest)


def check_fields(request: ChatRequest) -> None:
    """Raise InvalidRequest for what is wrong whatever the model is."""
    refuse(request, _SUPPORTED, _WHY)
    check(request)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")


def prepare(request: ChatRequest, model: ServedModel, *, inline_reasoning: bool) -> GenerationRequest:
    """Translate the request into a generation. Raises InvalidRequest."""
    check_fields(request)
    form, form_field = grammar(request)
    tools = offered(request)
    params = msgspec.structs.replace(
        generation_params(request, limit(request, "n_predict", "max_completion_tokens", "max_tokens")),
        logprobs=(request.top_logprobs or 0) if request.logprobs else request.n_probs or None,
        prediction=_predicted(request.prediction),
    )
    conversation = chat_request(
        model,
        link_function_results(
            [_message(message, f"messages[{index}]") for index, message in enumerate(request.messages)]
        ),
        tools=tools.functions,
        tool_choice=tools.choice,
        only=tools.only,
        parallel=request.parallel_tool_calls is not False and not tools.legacy,
        form=form,
        params=params,
        thinking=thinking_options(request),
        variables={**template_variables(request, model), **(request.chat_template_kwargs or {})},
        opening=request.add_generation_prompt is not False,
        continues=_continues(request),
        inline_reasoning=wants_inline_reasoning(request, default=inline_reasoning),
        fields=FieldNames(form=form_field, tools="functions", tool_choice="function_call")
        if tools.legacy
        else FieldNames(form=form_field),
    )
    return msgspec.structs.replace(
        conversation,
        choices=request.choices,
        stops=stops(request),
        keep_stop=bool(request.include_stop_str_in_output),
    )


def _continues(request: ChatRequest) -> Continued:
    """Whether the reply continues the last message. Raises InvalidRequest."""
    continued = request.continue_final_message or request.messages[-1].is_prefix
    if continued and request.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' and 'add_generation_prompt' can't both be true: a prompt ends within the last "
            "message or begins another.",
            param="continue_final_message",
        )
    return continued


def offered(request: ChatRequest) -> Toolset:
    """The tools that the request offers. Raises InvalidRequest."""
    if not request.functions and request.function_call in (None, "none", "auto"):
        return toolset(request.tools, request.tool_choice)
    if request.tools:
        field = "functions" if request.functions else "function_call"
        raise InvalidRequest(f"'{field}' is the older form of 'tools'; send one of them.", param=field)
    return legacy_toolset(request.functions or [], request.function_call)


def _predicted(prediction: Prediction | None) -> str | None:
    if prediction is None:
        return None
    if isinstance(prediction.content, str):
        return prediction.content
    return "".join(part.text for part in prediction.content)


def _message(message: ChatMessage, path: str) -> Message:
    """The message as templates expect it: content is a string, arguments are an object."""
    rendered: Message = {"role": message.role, "content": _content(message.content, path)}
    if message.name is not None:
        rendered["name"] = message.name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        rendered["reasoning_content"] = message.reasoning_content
    elif message.reasoning is not None:
        rendered["reasoning_content"] = message.reasoning
    if message.refusal and not message.content:
        rendered["content"] = message.refusal
    if message.audio is not None and not message.content:
        where = f"{path}.audio"
        raise InvalidRequest(f"'{where}': this model hears nothing; send what was said as 'content'.", param=where)
    if message.tool_calls:
        rendered["tool_calls"] = [
            past_tool_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(message.tool_calls)
        ]
    elif message.function_call is not None:
        rendered["tool_calls"] = [past_legacy_call(message.function_call)]
    return rendered


def _content(content: str | list[Part] | None, path: str) -> str | list[dict[str, str]]:
    """A string, or parts that are text: some templates read one form and some the other."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, ThinkingPart):
            texts.append(part.thinking)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        else:
            kind = part.__struct_config__.tag
            raise InvalidRequest(
                f"This model reads text alone; a part of type '{kind}' can't be used.", param=f"{path}.content[{index}]"
            )
    return [text_part(text) for text in texts]


# Replies


def completion(
    head: ReplyHead, transcript: CollectedReply, tools: Toolset, *, hides_reasoning: bool = False
) -> dict[str, Any]:
    """The body for a client that doesn't stream."""
    body = completion_object(head, "chat.completion", transcript, partial(_choice_object, tools))
    if hides_reasoning:
        for choice in body["choices"]:
            choice["message"].pop("reasoning_content", None)
    return body


def _choice_object(tools: Toolset, index: int, reply: CollectedChoice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    message |= message_fields(reply.tool_calls, tools)
    reason = finish_reason(reply.finish_reason, tools)
    logprobs: dict[str, Any] | None = None
    if reply.logprobs:
        logprobs = {"content": [logprob_object(entry) for entry in reply.logprobs], "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


_NO_TOOLS = Toolset()


class ChatStream:
    """Encodes a chat stream. See ``Encoder``."""

    def __init__(
        self,
        head: ReplyHead,
        choices: int,
        *,
        wants_usage: bool,
        comments: bool,
        tools: Toolset = _NO_TOOLS,
        hides_reasoning: bool = False,
    ) -> None:
        self._choices = choices
        self._tools = tools
        self._calls = CallDeltas(tools)
        self._hides_reasoning = hides_reasoning
        self._prefix = chunk_prefix(head, "chat.completion.chunk")
        self._ends = StreamEnds(
            self._prefix,
            lambda index, text: self._chunk(index, {"content": text}, None),
            choices,
            wants_usage=wants_usage,
            comments=comments,
        )
        # The constant part of a content chunk, made once: a token costs one encode and one join.
        self._before_text = [self._prefix + b'{"index":%d,"delta":{"content":' % index for index in range(choices)]

    def start(self) -> list[bytes]:
        """The role, for each choice."""
        return [self._chunk(index, {"role": "assistant", "content": ""}, None) for index in range(self._choices)]

    def encode(self, event: Event) -> list[bytes]:
        """One chunk; two for a failure, none for usage that the request doesn't ask for."""
        if self._calls.has_open_call and isinstance(event, TextDelta | ReasoningDelta | Finish):
            return [*self._delta_chunks(event.choice, self._calls.end(event.choice)), *self._encode(event)]
        return self._encode(event)

    def _encode(self, event: Event) -> list[bytes]:
        if isinstance(event, TextDelta):
            if event.logprobs is None:
                text = msgspec.json.encode(event.text)
                return [self._before_text[event.choice] + text + b'},"finish_reason":null}]}\n\n']
            return [self._chunk(event.choice, {"content": event.text}, None, event.logprobs)]
        if isinstance(event, ReasoningDelta):
            if self._hides_reasoning:
                return []
            return [self._chunk(event.choice, {"reasoning_content": event.text}, None)]
        if isinstance(event, ToolCallDelta):
            return self._delta_chunks(event.choice, self._calls.delta(event))
        if isinstance(event, Finish):
            self._ends.finished(event.choice)
            return [self._chunk(event.choice, {}, finish_reason(event.reason, self._tools))]
        if isinstance(event, Usage):
            return self._ends.usage(event)
        if isinstance(event, KeepAlive):
            return self._ends.keep_alive()
        if isinstance(event, PromptProgress | Timed):
            return []  # ``timing_fields`` encodes these events where the request asks for them.
        return self._ends.failure(event.error)

    def empty(self, choice: int) -> list[bytes]:
        """See ``MeasuredStream``."""
        return [self._chunk(choice, {"content": ""}, None)]

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._ends.end()

    def _delta_chunks(self, choice: int, deltas: list[dict[str, Any]]) -> list[bytes]:
        return [self._chunk(choice, delta, None) for delta in deltas]

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None, logprobs: list[TokenLogprob] | None = None
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
        if logprobs is not None:
            choice["logprobs"] = {"content": [logprob_object(entry) for entry in logprobs]}
        return self._prefix + msgspec.json.encode(choice) + b"]}\n\n"
