"""Ollama's ``POST /api/chat``."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
from tailrace.chat.tools import Function
from tailrace.server.dialects.ollama.reply import ReplyShape
from tailrace.server.dialects.ollama.shared_fields import SharedFields, check, conversation, refuse_images
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel


class PastFunctionCall(msgspec.Struct):
    """The function of an earlier call."""

    name: str
    arguments: Any = None
    index: int | None = None


class PastToolCall(msgspec.Struct):
    """A tool call in the history."""

    function: PastFunctionCall
    id: str | None = None


class ChatMessage(msgspec.Struct):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[PastToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class FunctionDefinition(msgspec.Struct):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    function: FunctionDefinition
    type: Literal["function"] | None = None


class ChatRequest(SharedFields):
    """The body of a chat. A request without messages only loads the model."""

    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None

    @property
    def is_empty(self) -> bool:
        """See ``SharedFields``."""
        return not self.messages


decoder = msgspec.json.Decoder(ChatRequest)


def check_fields(request: ChatRequest) -> None:
    """Raise InvalidRequest for what is wrong whatever the model is."""
    check(request)
    for index, message in enumerate(request.messages or []):
        refuse_images(message.images, f"messages[{index}].images")


def prepare(request: ChatRequest, model: ServedModel, *, inline_reasoning: bool, start: int = 0) -> GenerationRequest:
    """Translate the request, which ``check_fields`` has accepted, into a generation, without the messages before
    ``start`` except system messages. Raises InvalidRequest.
    """
    functions = tuple(
        Function(name=f.name, description=f.description, parameters=f.parameters)
        for f in (tool.function for tool in request.tools or ())
    )
    messages = [
        _message(message)
        for index, message in enumerate(request.messages or [])
        if index >= start or message.role == "system"
    ]
    return conversation(request, model, messages, functions, prompt_param="messages", inline_reasoning=inline_reasoning)


def truncation_starts(messages: list[ChatMessage]) -> list[int]:
    """The indexes at which a truncated conversation may begin. Tool results stay with their call."""
    found: list[int] = []
    before_results = 0  #: the last message that is no tool result
    for index, message in enumerate(messages):
        if message.role != "tool":
            before_results = index
        start = before_results if messages[before_results].tool_calls else index
        if start and (not found or start > found[-1]):
            found.append(start)
    return found


def remaining_chars(messages: list[ChatMessage]) -> list[int]:
    """How many characters a conversation has that begins at each message, and behind the last: none."""
    return [0, *accumulate(len(message.content or "") for message in reversed(messages))][::-1]


def _message(message: ChatMessage) -> Message:
    """The message as templates expect it."""
    rendered: Message = {"role": message.role, "content": message.content or ""}
    if message.tool_name is not None:
        rendered["name"] = message.tool_name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.thinking:
        rendered["reasoning_content"] = message.thinking
    if message.tool_calls:
        rendered["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": decode_arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return rendered


def _fields(text: str, reasoning: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["thinking"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


SHAPE = ReplyShape(_fields, b'"message":{"role":"assistant","content":', b"}")
