"""Translates Anthropic's requests into generations. A new parameter gets its line in ``prepare``."""

from __future__ import annotations

from typing import Literal

import msgspec

from tailrace.chat.thinking_kwargs import ThinkingOptions
from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.prompt_text import PromptText
from tailrace.server.chat_request import FieldNames, ToolChoice, chat_request
from tailrace.server.dialects.anthropic.messages import MessageHistory, continues, system_text
from tailrace.server.dialects.anthropic.request import (
    AnyChoice,
    AutoChoice,
    ClearThinking,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    PromptFields,
    ThinkingAdaptive,
    ThinkingDisabled,
    ThinkingEnabled,
    ThinkingTurns,
    Tool,
    refuse,
)
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.stop_fields import stop_strings
from tailrace.server.thinking_fields import ThinkingSwitch, merge_thinking

_DEFAULTS = Sampling()
_NO_PARAMS = GenerationParams()


def prepare(request: MessagesRequest, model: ServedModel) -> GenerationRequest:
    """A generation for ``POST /v1/messages``. Raises InvalidRequest."""
    params = GenerationParams(
        max_tokens=_limit(request),
        sampling=Sampling(
            temperature=_DEFAULTS.temperature if request.temperature is None else request.temperature,
            top_k=_DEFAULTS.top_k if request.top_k is None else request.top_k,
            top_p=_DEFAULTS.top_p if request.top_p is None else request.top_p,
        ),
    )
    stops = stop_strings(request.stop_sequences, "stop_sequences")
    return msgspec.structs.replace(chat_generation(request, model, params), stops=stops)


def check_fields(request: MessagesRequest) -> None:
    """Raise InvalidRequest for what is wrong whatever the model is."""
    _limit(request)
    stop_strings(request.stop_sequences, "stop_sequences")
    refuse(request)
    _form(request)
    _functions(request)


def _limit(request: MessagesRequest) -> int | None:
    """The reply's limit; -1 is none, as with llama-server. Raises InvalidRequest."""
    if request.max_tokens == 0:
        raise InvalidRequest("'max_tokens' must be at least 1, or -1 for no limit.", param="max_tokens")
    return None if request.max_tokens < 0 else request.max_tokens


def prompt_text(request: PromptFields, model: ServedModel) -> PromptText:
    """The prompt of a token count. Raises InvalidRequest."""
    (prompt,) = chat_generation(request, model).prompts
    assert isinstance(prompt, PromptText)
    return prompt


def chat_generation(
    request: PromptFields, model: ServedModel, params: GenerationParams = _NO_PARAMS
) -> GenerationRequest:
    """All of a generation that the conversation decides, its prompt above all. Raises InvalidRequest."""
    refuse(request)
    last = len(request.messages) - 1
    continued = continues(request.messages[last], f"messages[{last}]")
    history = MessageHistory(request.messages)
    for edit in (request.context_management.edits or ()) if request.context_management is not None else ():
        if isinstance(edit, ClearThinking) and (turns := _turns(edit)) is not None:
            history.drop_old_reasoning(turns)
    if system := system_text(request.system):
        history.prepend_system(system)
    form, form_field = _form(request)
    choice, only = _choice(request.tool_choice)
    if continued and form is not None:
        where = form_field
        raise InvalidRequest(f"'{where}' can't be held to in a reply that the last message has begun.", param=where)
    return chat_request(
        model,
        history.messages,
        tools=_functions(request),
        tool_choice=choice,
        only=only,
        parallel=request.tool_choice is None
        or isinstance(request.tool_choice, NoChoice)
        or not request.tool_choice.disable_parallel_tool_use,
        form=form,
        params=params,
        thinking=_thinking(request),
        variables=request.chat_template_kwargs,
        continues=continued,
        fields=FieldNames(messages=history.paths, form=form_field),
    )


def hides_reasoning(request: MessagesRequest) -> bool:
    """Whether the request leaves reasoning out of the reply."""
    thinking = request.thinking
    return isinstance(thinking, (ThinkingEnabled, ThinkingAdaptive)) and thinking.display == "omitted"


def _turns(edit: ClearThinking) -> int | None:
    """The number of turns that keep their reasoning; None: all."""
    if edit.keep is None:
        return 1  # The API reference's default.
    return edit.keep.value if isinstance(edit.keep, ThinkingTurns) else None


def _choice(choice: AutoChoice | AnyChoice | NamedChoice | NoChoice | None) -> tuple[ToolChoice, str | None]:
    """The mode, and the name of the required tool."""
    if isinstance(choice, NamedChoice):
        return "required", choice.name
    if isinstance(choice, AnyChoice):
        return "required", None
    return ("none" if isinstance(choice, NoChoice) else "auto"), None


def _functions(request: PromptFields) -> list[Function]:
    return [_function(tool, f"tools[{index}]") for index, tool in enumerate(request.tools or ())]


def _function(tool: Tool, path: str) -> Function:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"'{path}': a tool of type '{tool.type}' is Anthropic's own and not there; describe one that your client "
            "runs, with 'name' and 'input_schema'.",
            param=path,
        )
    if tool.name is None or tool.input_schema is None:
        where = f"{path}.name" if tool.name is None else f"{path}.input_schema"
        raise InvalidRequest(f"'{where}' is missing.", param=where)
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        where = f"{path}.allowed_callers"
        raise InvalidRequest(f"'{where}': only the model itself calls tools, as 'direct'.", param=where)
    parameters = dict(tool.input_schema)
    if tool.input_examples:
        parameters["examples"] = tool.input_examples
    return Function(name=tool.name, description=tool.description, parameters=parameters, strict=bool(tool.strict))


def _thinking(request: PromptFields) -> ThinkingOptions:
    thinking = request.thinking
    switch = None
    if thinking is not None:
        budget = thinking.budget_tokens if isinstance(thinking, ThinkingEnabled) else None
        kind: Literal["disabled", "enabled"] = "disabled" if isinstance(thinking, ThinkingDisabled) else "enabled"
        switch = ThinkingSwitch(type=kind, budget_tokens=budget)
    effort = request.output_config.effort if request.output_config is not None else None
    return merge_thinking(enable=request.enable_thinking, thinking=switch, effort=effort or request.reasoning_effort)


def _form(request: PromptFields) -> tuple[Grammar | None, str]:
    """The reply's grammar, and the field that has it."""
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
    return Grammar(kind="json_schema", text=msgspec.json.encode(given.schema).decode(), strict=True), field
