"""Items of hosted tools, made by other servers. A session brings them along when it changes its server.

The model gets such an item as a call and its result. Items without text (an image, a snapshot, another server's
encrypted state) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tailrace.server.dialects.responses.items import Item

#: The text of a result without text.
_NO_TEXT = "(no text)"


class HostedCall(msgspec.Struct, frozen=True):
    """A call by another server. ``result`` is None where a separate item has it."""

    call_id: str
    name: str
    arguments: Any
    result: str | None = None


class HostedResult(msgspec.Struct, frozen=True):
    """The result of such a call."""

    call_id: str
    text: str


HostedContent = HostedCall | HostedResult | None


def is_hosted(item: Item) -> bool:
    """Whether the item is one of another server's own tools."""
    kind = item.get("type")
    return isinstance(kind, str) and kind in HOSTED_ITEMS


def hosted_content(item: Item) -> HostedContent:
    """The content of a hosted item for the model; None without any."""
    read = HOSTED_ITEMS[item["type"]]
    return None if read is None else read(item)


def _web_search(item: Item) -> HostedContent:
    action = _object(item.get("action"))
    payload = {name: value for name, value in action.items() if name not in ("type", "sources") and value}
    if not payload:
        return None
    sources = [_text(_object(source).get("url")) for source in _list(action.get("sources"))]
    return HostedCall(_identity(item), "web_search", payload, _lines(sources))


def _file_search(item: Item) -> HostedContent:
    queries = _list(item.get("queries"))
    if not queries:
        return None
    found = [_object(result) for result in _list(item.get("results"))]
    texts = [f"{_text(result.get('filename'))}: {_text(result.get('text'))}" for result in found]
    return HostedCall(_identity(item), "file_search", {"queries": queries}, _lines(texts))


def _code_interpreter(item: Item) -> HostedContent:
    if not item.get("code"):
        return None
    logs = [_text(_object(output).get("logs")) for output in _list(item.get("outputs"))]
    return HostedCall(_identity(item), "code_interpreter", {"code": item["code"]}, _lines(logs))


def _image_generation(item: Item) -> HostedContent:
    if not item.get("revised_prompt"):
        return None
    return HostedCall(_identity(item), "image_generation", {"prompt": item["revised_prompt"]}, "(an image)")


def _mcp(item: Item) -> HostedContent:
    label, name = _text(item.get("server_label")), _text(item.get("name"))
    result = _text(item.get("output")) or _text(item.get("error")) or _NO_TEXT
    return HostedCall(_identity(item), f"{label}__{name}" if label else name, item.get("arguments"), result)


def _action(name: str, field: str = "action") -> Callable[[Item], HostedContent]:
    """A call whose arguments are the object in ``field``."""

    def read(item: Item) -> HostedContent:
        given = item.get(field)
        arguments = {key: value for key, value in given.items() if key != "type"} if isinstance(given, dict) else given
        return HostedCall(_identity(item), name, arguments) if arguments else None

    return read


def _program(item: Item) -> HostedContent:
    return HostedCall(_identity(item), "program", {"code": item["code"]}) if item.get("code") else None


def _output(field: str) -> Callable[[Item], HostedContent]:
    """A result, whose text is in ``field``."""
    return lambda item: HostedResult(_identity(item), _text(item.get(field)) or _text(item.get("status")) or _NO_TEXT)


def _shell_output(item: Item) -> HostedContent:
    parts = [_object(part) for part in _list(item.get("output"))]
    texts = [_text(part.get(stream)) for part in parts for stream in ("stdout", "stderr")]
    return HostedResult(_identity(item), _lines(texts))


def _screenshot(item: Item) -> HostedContent:
    return HostedResult(_identity(item), "(an image)")


def _tool_names(item: Item) -> HostedContent:
    """The tools themselves join those of the request: see ``tools``."""
    names = [_text(_object(tool).get("name")) for tool in _list(item.get("tools"))]
    return HostedResult(_identity(item), _lines(names))


#: The reader of each item type; None for items without content for the model.
HOSTED_ITEMS: dict[str, Callable[[Item], HostedContent] | None] = {
    "web_search_call": _web_search,
    "file_search_call": _file_search,
    "code_interpreter_call": _code_interpreter,
    "image_generation_call": _image_generation,
    "mcp_call": _mcp,
    "local_shell_call": _action("local_shell"),
    "local_shell_call_output": _output("output"),
    "shell_call": _action("shell"),
    "shell_call_output": _shell_output,
    "apply_patch_call": _action("apply_patch", "operation"),
    "apply_patch_call_output": _output("output"),
    "computer_call": _action("computer"),
    "computer_call_output": _screenshot,
    "tool_search_call": _action("tool_search", "arguments"),
    "tool_search_output": _tool_names,
    "program": _program,
    "program_output": _output("result"),
    "additional_tools": None,
    "compaction": None,
    "compaction_summary": None,
    "context_compaction": None,
    "configuration_update": None,
    "ghost_snapshot": None,
    "mcp_approval_request": None,
    "mcp_approval_response": None,
    "mcp_list_tools": None,
}

#: Types of items that bring tools.
_WITH_TOOLS = ("additional_tools", "tool_search_output")


def tools_in_items(items: Iterable[tuple[Item, str]]) -> list[tuple[Any, str]]:
    """The tools that items bring, each with its path in the request. Codex sends all of its tools so."""
    return [
        (tool, f"{path}.tools[{number}]")
        for item, path in items
        if item.get("type") in _WITH_TOOLS
        for number, tool in enumerate(_list(item.get("tools")))
    ]


def _identity(item: Item) -> str:
    """The call's id. The output of a local shell's call has it as its own."""
    return _text(item.get("call_id")) or _text(item.get("id"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(text for text in texts if text) or _NO_TEXT
