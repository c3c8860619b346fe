"""The bodies of Anthropic's requests, and the values that aren't supported.

``docs/anthropic.md`` has a row for each field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.anthropic.content_blocks import Block, TextBlock, ToolResultBlock

Probability = Annotated[float, Meta(ge=0, le=1)]
#: Anthropic's own API refuses empty ones, too.
StopSequence = Annotated[str, Meta(min_length=1, max_length=1024)]


class InputMessage(msgspec.Struct):
    """One message. ``system`` may be anywhere."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool that the client runs. Those with a ``type`` of their own are Anthropic's, and refused."""

    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    input_examples: list[dict[str, Any]] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: list[str] | None = None
    cache_control: Any = None


class AutoChoice(msgspec.Struct, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(msgspec.Struct, tag_field="type", tag="any"):
    """Some tool has to be used."""

    disable_parallel_tool_use: bool | None = None


class NamedChoice(msgspec.Struct, tag_field="type", tag="tool"):
    """This tool has to be used."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(msgspec.Struct, tag_field="type", tag="none"):
    """No tool may be used."""


ToolChoice = AutoChoice | AnyChoice | NamedChoice | NoChoice
Display = Literal["summarized", "omitted"]


class ThinkingEnabled(msgspec.Struct, tag_field="type", tag="enabled"):
    """The model shall think."""

    budget_tokens: Annotated[int, Meta(ge=1024, le=2**31 - 1)]
    display: Display | None = None


class ThinkingAdaptive(msgspec.Struct, tag_field="type", tag="adaptive"):
    """The model may think."""

    display: Display | None = None


class ThinkingDisabled(msgspec.Struct, tag_field="type", tag="disabled"):
    """The model shall not think."""


class JsonFormat(msgspec.Struct):
    """The reply is JSON of this schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How the reply shall be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None
    task_budget: Any = None


class ThinkingTurns(msgspec.Struct, tag_field="type", tag="thinking_turns"):
    """So many of the last turns."""

    value: Annotated[int, Meta(ge=1)]


class AllTurns(msgspec.Struct, tag_field="type", tag="all"):
    """Every turn."""


class ClearThinking(msgspec.Struct, tag_field="type", tag="clear_thinking_20251015"):
    """Removes earlier reasoning except for the last turns."""

    keep: Literal["all"] | ThinkingTurns | AllTurns | None = None


class ClearToolUses(msgspec.Struct, tag_field="type", tag="clear_tool_uses_20250919"):
    """Earlier tool results are left out: known, and refused."""


class Compact(msgspec.Struct, tag_field="type", tag="compact_20260112"):
    """A long conversation is summarised: known, and refused."""


class ContextManagement(msgspec.Struct):
    """Edits of the conversation before the prompt is rendered."""

    edits: list[ClearThinking | ClearToolUses | Compact] | None = None


class PromptFields(msgspec.Struct, kw_only=True):
    """The fields of both requests, which make the prompt; null equals absent everywhere."""

    model: str
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=100_000)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    context_management: ContextManagement | None = None
    cache_control: Any = None
    # Extensions of local servers
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    speed: str | None = None
    mcp_servers: list[Any] | None = None
    compaction: Any = None

    @property
    def marks_cache(self) -> bool:
        """Whether the request has a cache breakpoint anywhere, so that its client reads the parts of ``usage``."""
        if self.cache_control is not None or any(tool.cache_control is not None for tool in self.tools or ()):
            return True
        contents = [self.system, *(message.content for message in self.messages)]
        return any(_marks_cache(content) for content in contents if isinstance(content, list))


class MessagesRequest(PromptFields, kw_only=True):
    """The body of ``POST /v1/messages``."""

    max_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)]
    stream: bool | None = None
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: Annotated[list[StopSequence], Meta(max_length=1024)] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Any = None
    inference_geo: str | None = None
    thread: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    billing_policy: Any = None
    diagnostics: Any = None
    user_profile_id: str | None = None
    workspace_id: str | None = None


class CountRequest(PromptFields, kw_only=True):
    """The body of ``POST /v1/messages/count_tokens``."""


#: The supported values of fields that aren't fully supported, and the reason.
_SUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "speed": (("standard",), "there is one speed here, 'standard'."),
    "mcp_servers": (([],), "this server calls no MCP servers; have the client do it."),
    "compaction": ((), "this server doesn't summarise conversations; ask the model to."),
    "container": ((), "there are no containers here."),
    "inference_geo": ((), "the model runs on this machine alone; leave it out."),
    "thread": ((), "conversations are not stored here; send all messages."),
    "fallbacks": (("default", []), "there is no other model to fall back to."),
}


def _marks_cache(blocks: Sequence[Any]) -> bool:
    return any(
        getattr(block, "cache_control", None) is not None
        or (isinstance(block, ToolResultBlock) and isinstance(block.content, list) and _marks_cache(block.content))
        for block in blocks
    )


def refuse(request: PromptFields) -> None:
    """Raise InvalidRequest for the first field with an unsupported value."""
    for name in request.__struct_fields__:
        if (entry := _SUPPORTED.get(name)) is None:
            continue
        values, why = entry
        value = getattr(request, name)
        if value is not None and value not in values:
            raise InvalidRequest(f"'{name}': {why}", param=name, code="unsupported_value")
    config = request.output_config
    if config is not None and config.task_budget is not None:
        where = "output_config.task_budget"
        raise InvalidRequest(f"'{where}': budgets over several requests are not kept here.", param=where)
    edits = request.context_management.edits if request.context_management is not None else None
    for index, edit in enumerate(edits or ()):
        if not isinstance(edit, ClearThinking):
            where = f"context_management.edits[{index}]"
            kind = edit.__struct_config__.tag
            raise InvalidRequest(f"'{where}': '{kind}' is not supported; only thoughts are cleared.", param=where)
