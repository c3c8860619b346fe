"""The offered tools: functions, functions in namespaces, and custom tools. The model gets each as one function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.tools import Function
from tailrace.errors import InvalidRequest
from tailrace.server.chat_request import ToolChoice
from tailrace.server.custom_tools import custom_function
from tailrace.server.dialects.openai.tools import allowed_tools
from tailrace.server.dialects.responses.items import quoted
from tailrace.server.json_body import convert

_Name = Annotated[str, Meta(min_length=1, max_length=256)]

#: Tools that the client's own server would run. A search may stand beside tools of the client (Codex sends it so with
#: every request): the model, which is free not to search, never does. The response doesn't list it.
_SEARCHES = ("web_search", "web_search_preview")


class FunctionTool(msgspec.Struct):
    """A function. ``parameters`` is a JSON schema."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomFormat(msgspec.Struct):
    """The format of a custom tool's input."""

    type: Literal["text", "grammar"]
    syntax: str | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct):
    """A tool with free text as its input."""

    name: _Name
    description: str | None = None
    format: CustomFormat | None = None


class Namespace(msgspec.Struct):
    """Functions and custom tools with a name in common."""

    name: _Name
    tools: list[dict[str, Any]]
    description: str | None = None


class Tool(msgspec.Struct, frozen=True):
    """One tool, as the client knows it (``name``, ``namespace``, ``custom``) and as the model does."""

    name: str
    namespace: str | None
    custom: bool
    function: Function


class Toolset(msgspec.Struct, frozen=True):
    """The tools of a request by the model's names for them, and the tools as the response lists them."""

    tools: Mapping[str, Tool] = {}
    listed: list[dict[str, Any]] = []
    choice: ToolChoice = "auto"
    only: str | None = None  #: the one that has to be called, by the model's name for it
    allowed: frozenset[str] | None = None  #: those that may be called; None is all

    @property
    def functions(self) -> tuple[Function, ...]:
        """The functions that the model is offered."""
        return tuple(tool.function for name, tool in self.tools.items() if self.allowed is None or name in self.allowed)


def model_name(name: str, namespace: str | None) -> str:
    """A tool's name as the model knows it."""
    return name if namespace is None else f"{namespace}__{name}"


def toolset(
    given: list[dict[str, Any]] | None,
    choice: str | dict[str, Any] | None,
    brought: Sequence[tuple[Any, str]] = (),
) -> Toolset:
    """The request's tools, and the tools ``brought`` by its items, each with its path.

    Of two tools with one name the last counts. Tools that only another server can run are left out. Raises
    InvalidRequest.
    """
    tools = _brought(brought)
    names = set(tools)
    listed: list[dict[str, Any]] = []
    searches: list[int] = []
    for index, tool in enumerate(given or ()):
        path = f"tools[{index}]"
        if tool.get("type") in _SEARCHES:
            searches.append(index)
            continue
        if tool.get("type") == "namespace":
            namespace = convert(tool, Namespace, path)
            for number, inner in enumerate(namespace.tools):
                _add(tools, inner, namespace.name, f"{path}.tools[{number}]", replaced=names)
        else:
            _add(tools, tool, None, path, replaced=names)
        listed.append(_listed(tool))
    if searches and not tools:
        raise _unsupported(f"tools[{searches[0]}].type", given[searches[0]]["type"] if given else "")
    mode, only, allowed = _choice(choice, tools)
    return Toolset(tools, listed, mode, only, allowed)


def _brought(given: Sequence[tuple[Any, str]]) -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    for tool, path in given:
        if not isinstance(tool, dict):
            raise InvalidRequest(f"'{path}' has to be an object.", param=path)
        name: str | None = None
        inner = [(tool, path)]
        if tool.get("type") == "namespace":
            namespace = convert(tool, Namespace, path)
            name = namespace.name
            inner = [(one, f"{path}.tools[{number}]") for number, one in enumerate(namespace.tools)]
        for one, tool_path in inner:
            if one.get("type") in ("function", "custom"):
                _add(tools, one, name, tool_path, replaced={*tools})
    return tools


def _add(
    tools: dict[str, Tool], given: dict[str, Any], namespace: str | None, path: str, *, replaced: set[str]
) -> None:
    """Put the tool among ``tools``, where only one of the names ``replaced`` may be there already."""
    kind = given.get("type")
    if kind == "function":
        function = convert(given, FunctionTool, path)
        name = model_name(function.name, namespace)
        offered = Function(
            name=name, description=function.description, parameters=function.parameters, strict=bool(function.strict)
        )
        made = Tool(function.name, namespace, False, offered)
    elif kind == "custom":
        custom = convert(given, CustomTool, path)
        name = model_name(custom.name, namespace)
        made = Tool(custom.name, namespace, True, _custom_function(name, custom))
    else:
        raise _unsupported(f"{path}.type", kind)
    if name in tools and name not in replaced:
        raise InvalidRequest(f"'{path}.name': there are two tools of the name {quoted(name)}.", param=f"{path}.name")
    replaced.discard(name)
    tools[name] = made


def _custom_function(name: str, tool: CustomTool) -> Function:
    form = tool.format or CustomFormat("text")
    return custom_function(name, tool.description, syntax=form.syntax, definition=form.definition)


def _listed(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool as the response lists it, with the fields that typed clients require."""
    if tool.get("type") == "function":
        return {"description": None, "parameters": None, "strict": False, **tool}
    return tool


def _choice(
    choice: str | dict[str, Any] | None, tools: Mapping[str, Tool]
) -> tuple[ToolChoice, str | None, frozenset[str] | None]:
    if choice is None or choice == "auto":
        return "auto", None, None
    if choice == "none":
        return "none", None, None
    if choice in ("required", "any"):
        return "required", None, None
    assert isinstance(choice, dict)
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return "required", _named(choice, tools, "tool_choice"), None
    if kind == "allowed_tools":
        mode, listed = allowed_tools(choice, None)
        allowed = frozenset(_named(tool, tools, f"tool_choice.tools[{n}]") for n, tool in enumerate(listed))
        return mode, None, allowed
    raise _unsupported("tool_choice.type", kind)


def _named(choice: Any, tools: Mapping[str, Tool], path: str) -> str:
    name = choice.get("name") if isinstance(choice, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(f"'{path}.name' is missing.", param=f"{path}.name")
    found = model_name(name, choice.get("namespace"))
    if found not in tools:
        raise InvalidRequest(f"'{path}.name': there is no tool {quoted(name)}.", param=f"{path}.name")
    return found


def _unsupported(param: str, kind: object) -> InvalidRequest:
    return InvalidRequest(
        f"'{param}': tools of type {quoted(kind)} are not supported here; 'function', 'custom' and 'namespace' are.",
        param=param,
        code="unsupported_value",
    )
