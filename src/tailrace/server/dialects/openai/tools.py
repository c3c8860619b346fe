"""The tools that a chat request offers, and its tool choice: functions, custom tools, and the older ``functions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.server.chat_request import ToolChoice
from tailrace.server.custom_tools import custom_function

_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class FunctionDefinition(msgspec.Struct):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    """A function. Its fields may be beside the type, as in the Responses API."""

    function: FunctionDefinition | None = None
    name: _Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Syntax(msgspec.Struct):
    """A grammar of a custom tool's input."""

    syntax: str | None = None
    definition: str | None = None


class CustomFormat(msgspec.Struct):
    """The format of a custom tool's input. The grammar may be beside the type, as in the Responses API."""

    type: Literal["text", "grammar"]
    grammar: Syntax | None = None
    syntax: str | None = None
    definition: str | None = None


class CustomToolDefinition(msgspec.Struct):
    """A tool with free text as its input."""

    name: _Name
    description: str | None = None
    format: CustomFormat | None = None


class CustomTool(msgspec.Struct, tag_field="type", tag="custom"):
    """A custom tool."""

    custom: CustomToolDefinition


Tool = FunctionTool | CustomTool


class Toolset(msgspec.Struct, frozen=True, kw_only=True):
    """The offered functions, the tool choice, and the form of calls in the reply."""

    functions: tuple[Function, ...] = ()
    choice: ToolChoice = "auto"
    only: str | None = None  #: the one function that has to be called
    custom: frozenset[str] = frozenset()  #: names of those that are custom tools
    legacy: bool = False  #: calls have the older form ``function_call``, one in a reply


def toolset(tools: list[Tool] | None, choice: str | dict[str, Any] | None) -> Toolset:
    """The tools of a request with ``tools``. Raises InvalidRequest."""
    made: dict[str, Function] = {}
    custom: set[str] = set()
    for index, tool in enumerate(tools or ()):
        if isinstance(tool, CustomTool):
            custom.add(tool.custom.name)
            function = _custom(tool.custom)
        else:
            function = _function(tool, f"tools[{index}]")
        made.setdefault(function.name, function)
    mode, names = _choice(choice)
    if isinstance(names, str):
        return Toolset(functions=tuple(made.values()), choice=mode, only=names, custom=frozenset(custom))
    for index, name in enumerate(names or ()):
        if name not in made:
            where = f"tool_choice.tools[{index}]"
            raise InvalidRequest(f"'{where}' names '{name[:256]}', which is not among 'tools'.", param=where)
    offered = tuple(function for name, function in made.items() if names is None or name in names)
    return Toolset(functions=offered, choice=mode, custom=frozenset(custom))


def legacy_toolset(functions: list[FunctionDefinition], choice: str | dict[str, Any] | None) -> Toolset:
    """The same of a request with ``functions``. Raises InvalidRequest."""
    offered = tuple(_offered(function) for function in functions)
    if isinstance(choice, dict):
        return Toolset(functions=offered, only=_name(choice, "function_call"), choice="required", legacy=True)
    if choice not in (None, "none", "auto"):
        raise InvalidRequest("'function_call' has to be 'none', 'auto' or name a function.", param="function_call")
    return Toolset(functions=offered, choice="none" if choice == "none" else "auto", legacy=True)


def _offered(function: FunctionDefinition) -> Function:
    return Function(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=bool(function.strict),
    )


def _function(tool: FunctionTool, path: str) -> Function:
    if tool.function is not None:
        return _offered(tool.function)
    if tool.name is None:
        raise InvalidRequest(f"'{path}.function' is missing.", param=f"{path}.function")
    return _offered(FunctionDefinition(tool.name, tool.description, tool.parameters, tool.strict))


def _custom(tool: CustomToolDefinition) -> Function:
    form = tool.format or CustomFormat("text")
    grammar = form.grammar or Syntax(form.syntax, form.definition)
    return custom_function(tool.name, tool.description, syntax=grammar.syntax, definition=grammar.definition)


#: ``any`` is Mistral's and Anthropic's word.
_MODES: dict[object, ToolChoice] = {"none": "none", "auto": "auto", "required": "required", "any": "required"}


def _choice(choice: str | dict[str, Any] | None) -> tuple[ToolChoice, str | list[str] | None]:
    """The mode; and the one function that has to be called, or a list of those that may be."""
    if choice is None:
        return "auto", None
    if isinstance(choice, str):
        if choice not in _MODES:
            raise InvalidRequest(
                "'tool_choice' has to be 'none', 'auto', 'required', 'any', or name tools.", param="tool_choice"
            )
        return _MODES[choice], None
    kind = choice.get("type")
    if kind in ("function", "custom", "tool"):
        return "required", _name(choice, "tool_choice")
    if kind == "allowed_tools":
        return _allowed(choice)
    if isinstance(kind, str) and kind in _MODES:
        return _MODES[kind], None
    raise InvalidRequest(
        "'tool_choice.type' has to be 'function', 'custom' or 'allowed_tools'.", param="tool_choice.type"
    )


def _allowed(choice: dict[str, Any]) -> tuple[ToolChoice, list[str]]:
    mode, tools = allowed_tools(choice, "auto")
    return mode, [_name(tool, f"tool_choice.tools[{index}]") for index, tool in enumerate(tools)]


def allowed_tools(choice: dict[str, Any], default_mode: str | None) -> tuple[ToolChoice, list[Any]]:
    """The mode and the tools of a ``tool_choice`` of type ``allowed_tools``. Raises InvalidRequest.

    Chat completions have the fields in an object of that name, the Responses API beside the type; both are accepted.
    """
    inner = choice.get("allowed_tools", choice)
    mode, tools = (inner.get("mode", default_mode), inner.get("tools")) if isinstance(inner, dict) else (None, None)
    if mode not in ("auto", "required"):
        raise InvalidRequest("'tool_choice.mode' has to be 'auto' or 'required'.", param="tool_choice.mode")
    if not isinstance(tools, list) or not tools:
        raise InvalidRequest("'tool_choice.tools' has to be a list of tools.", param="tool_choice.tools")
    return ("required" if mode == "required" else "auto"), tools


def _name(named: object, path: str) -> str:
    """The name that ``{"type": "function", "function": {"name"}}``, or a shorter form of it, has."""
    given = named if isinstance(named, dict) else {}
    inner = given.get("function") or given.get("custom") or given
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        kind = given.get("type")
        where = f"{path}.{kind if kind in ('function', 'custom') and inner is given else 'name'}"
        raise InvalidRequest(f"'{where}' is missing.", param=where)
    return name
