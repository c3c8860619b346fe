"""What Anthropic's requests ask of the engine."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.chat.parse import THINK_END, thinks
from tailrace.chat.template import ChatTemplate, Message
from tailrace.errors import InvalidRequest
from tailrace.messages import Grammar, Sampling
from tailrace.server.dialects.anthropic.history import conversation, keep_thoughts, prefill, system_text
from tailrace.server.dialects.anthropic.request import (
    AnyChoice,
    ClearThinking,
    Conversation,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
    ThinkingTurns,
    Tool,
    refuse,
)
from tailrace.server.generate import GenerationRequest

_DEFAULTS = Sampling()
#: What open models know of effort; Anthropic's two highest are their highest.
_EFFORT = {"xhigh": "high", "max": "high"}


def prepare(request: MessagesRequest, template: ChatTemplate) -> GenerationRequest:
    """A generation for ``POST /v1/messages``. Raises InvalidRequest."""
    prompt = prompt_of(request, template)
    form, form_field = _form(request)
    tools = _usable_tools(request)
    if form is not None:
        if tools:
            raise InvalidRequest(
                f"'{form_field}' leaves no room for tool calls; leave it out, or send 'tool_choice': "
                '{"type": "none"}.',
                param=form_field,
            )
        if request.messages[-1].role == "assistant":
            raise InvalidRequest(
                f"'{form_field}' can't be held to in a reply that the last message has begun.", param=form_field
            )
    choice = request.tool_choice
    parallel = choice is None or isinstance(choice, NoChoice) or not choice.disable_parallel_tool_use
    return GenerationRequest(
        prompts=[prompt],
        prompt_param="messages",
        max_tokens=request.max_tokens,
        sampling=Sampling(
            temperature=_DEFAULTS.temperature if request.temperature is None else request.temperature,
            top_k=_DEFAULTS.top_k if request.top_k is None else request.top_k,
            top_p=_DEFAULTS.top_p if request.top_p is None else request.top_p,
        ),
        stops=tuple(request.stop_sequences or ()),
        grammar=form,
        grammar_param=form_field,
        chat=True,
        tools=bool(tools),
        max_tool_calls=2**31 if parallel else 1,
    )


def prompt_of(request: Conversation, template: ChatTemplate) -> str:
    """The rendered prompt. Raises InvalidRequest."""
    refuse(request)
    tools = _usable_tools(request)
    last = len(request.messages) - 1
    begun = prefill(request.messages[last], f"messages[{last}]")
    given = request.messages if begun is None else request.messages[:last]
    messages = conversation(given)
    for edit in (request.context_management.edits or ()) if request.context_management is not None else ():
        if isinstance(edit, ClearThinking) and (turns := _turns(edit)) is not None:
            keep_thoughts(messages, turns)
    if system := system_text(request.system):
        messages.insert(0, Message(role="system", content=system))
    prompt = template.render(messages, tools or None, _variables(request))
    if begun is None:
        return prompt
    # What is continued is the reply: a thought that the template has begun for it is over.
    return f"{prompt}\n{THINK_END}\n\n{begun}" if thinks(prompt) else prompt + begun


def _turns(edit: ClearThinking) -> int | None:
    """Of how many turns thoughts are kept; None: of all."""
    if edit.keep is None:
        return 1  # What the API's reference says.
    return edit.keep.value if isinstance(edit.keep, ThinkingTurns) else None


def _usable_tools(request: Conversation) -> list[dict[str, Any]]:
    """The tools as templates expect them; none when none may be used. Raises InvalidRequest."""
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools or ())]
    choice = request.tool_choice
    if isinstance(choice, (AnyChoice, NamedChoice)):
        kind = choice.__struct_config__.tag
        raise InvalidRequest(f"'tool_choice': '{kind}' is not supported so far.", param="tool_choice")
    return [] if isinstance(choice, NoChoice) else tools


def _tool(tool: Tool, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"'{path}': a tool of type '{tool.type}' is Anthropic's own and not there; describe one that your client "
            "runs, with 'name' and 'input_schema'.",
            param=path,
        )
    for field in ("name", "input_schema"):
        if getattr(tool, field) is None:
            raise InvalidRequest(f"'{path}.{field}' is missing.", param=f"{path}.{field}")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        where = f"{path}.allowed_callers"
        raise InvalidRequest(f"'{where}': only the model itself calls tools, as 'direct'.", param=where)
    parameters = dict(tool.input_schema or {})
    if tool.input_examples:
        parameters["examples"] = tool.input_examples
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _variables(request: Conversation) -> dict[str, Any]:
    """What the template may use of the request: the names are those that models' templates have for it."""
    variables: dict[str, Any] = {}
    thinking = request.thinking
    if thinking is not None:
        variables["enable_thinking"] = variables["thinking"] = not isinstance(thinking, ThinkingDisabled)
    if isinstance(thinking, ThinkingEnabled):
        variables["thinking_budget"] = thinking.budget_tokens
    if request.output_config is not None and (effort := request.output_config.effort) is not None:
        variables["reasoning_effort"] = _EFFORT.get(effort, effort)
    return variables


def hides_thinking(request: MessagesRequest) -> bool:
    """Whether the client wants thoughts left out of the reply."""
    thinking = request.thinking
    return isinstance(thinking, (ThinkingEnabled, ThinkingAdaptive)) and thinking.display == "omitted"


def _form(request: MessagesRequest) -> tuple[Grammar | None, str]:
    """What the reply must look like, and the field that says so."""
    config = request.output_config.format if request.output_config is not None else None
    if config is not None and request.output_format is not None:
        raise InvalidRequest(
            "Only one of 'output_config.format' and 'output_format' can say what the reply looks like.",
            param="output_format",
        )
    field = "output_config.format.schema" if config is not None else "output_format.schema"
    given = config or request.output_format
    if given is None:
        return None, field
    return Grammar(kind="json_schema", text=msgspec.json.encode(given.schema).decode()), field
