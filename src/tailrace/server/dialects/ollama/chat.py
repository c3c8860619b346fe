"""Ollama's ``POST /api/chat``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.template import ChatTemplate, Message
from tailrace.errors import InvalidRequest
from tailrace.server.dialects.ollama.fields import SharedFields, check, generation, refuse_images, thinking
from tailrace.server.dialects.ollama.reply import Form
from tailrace.server.generate import GenerationRequest


class CalledFunction(msgspec.Struct):
    """The function of an earlier call."""

    name: str
    arguments: dict[str, Any] | None = None
    index: int | None = None


class EarlierCall(msgspec.Struct):
    """A tool call in the history."""

    function: CalledFunction
    id: str | None = None


class ChatMessage(msgspec.Struct):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[EarlierCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    function: Function
    type: Literal["function"] | None = None


class ChatRequest(SharedFields):
    """The body of a chat. Without messages it only asks for the model to be loaded."""

    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None


decoder = msgspec.json.Decoder(ChatRequest)


def prepare(request: ChatRequest, template: ChatTemplate, *, inline_reasoning: bool) -> GenerationRequest:
    """What the request asks of the engine. Raises InvalidRequest."""
    check(request)
    if request.format and request.tools:
        raise InvalidRequest("'format' leaves no room for tool calls; leave one of the two out.", param="format")
    prompt = template.render(
        [_message(message, f"messages[{index}]") for index, message in enumerate(request.messages or [])],
        [_tool(tool) for tool in request.tools] if request.tools else None,
        thinking(request.think),
    )
    wanted = generation(request, prompt, prompt_param="messages", chat=True)
    return msgspec.structs.replace(wanted, tools=bool(request.tools), inline_reasoning=inline_reasoning)


def _tool(tool: Tool) -> dict[str, Any]:
    function = {name: value for name, value in msgspec.structs.asdict(tool.function).items() if value is not None}
    return {"type": "function", "function": function}


def _message(message: ChatMessage, path: str) -> Message:
    """The message as templates expect it."""
    refuse_images(message.images, f"{path}.images")
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
                "function": {"name": call.function.name, "arguments": call.function.arguments or {}},
            }
            for call in message.tool_calls
        ]
    return rendered


def _fields(text: str, thought: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


FORM = Form(_fields, b'"message":{"role":"assistant","content":', b"}")
