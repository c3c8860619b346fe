"""Bounds the work of a chat template: it comes with a downloaded model, and loops over texts of clients.

One rendering has a ``RenderBudget`` of CPU time and characters. Loops, calls and outputs use it up. An operation that
makes a large value of a small one (``'a' * 10**9``, a width, a power) is refused before it is computed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.visitor import NodeTransformer

#: Processor seconds of one rendering. The largest conversation of a context of 131,072 tokens takes about 0.1 s.
MAX_CPU_SECONDS = 5.0
#: Characters that one rendering may write into the prompt or into variables, beside ``MAX_EXPANSION`` times the
#: messages' own.
MAX_CHARACTERS = 32_000_000
MAX_EXPANSION = 16
#: Characters of one text, and members of one list, that an operator, a method or a filter makes.
MAX_TEXT = 64_000_000
MAX_MEMBERS = 1_000_000
#: Characters of the widest padding: real templates pad a line at most.
MAX_WIDTH = 10_000
#: Loops, calls and outputs for each reading of the clock.
_STRIDE = 256
_MAX_BITS = 4096
_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
_PADDING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_FORMAT = frozenset({"format", "format_map"})


class TemplateTooCostly(jinja2.TemplateError):
    """The template exceeds a rendering's budget."""


class RenderBudget:
    """The rest of one rendering's budget."""

    __slots__ = ("_characters", "_deadline", "_ticks")

    def __init__(self, characters: int) -> None:
        """``characters`` of the conversation."""
        self._characters = MAX_CHARACTERS + MAX_EXPANSION * characters
        self._deadline = time.thread_time() + MAX_CPU_SECONDS
        self._ticks = 0

    def tick(self) -> None:
        """One more loop, call or output. Raises TemplateTooCostly."""
        self._ticks += 1
        if not self._ticks % _STRIDE and time.thread_time() > self._deadline:
            raise TemplateTooCostly(f"it computes for more than {MAX_CPU_SECONDS:g} s")

    def write(self, characters: int) -> None:
        """The template writes ``characters``. Raises TemplateTooCostly."""
        self.tick()
        self._characters -= characters
        if self._characters < 0:
            raise TemplateTooCostly("it writes far more than the messages have")


#: The budget of this thread's rendering; None while a template is compiled.
current: ContextVar[RenderBudget | None] = ContextVar("template_budget", default=None)


def tick() -> None:
    """Take one step of the current budget."""
    if (budget := current.get()) is not None:
        budget.tick()


def count_written(value: Any) -> Any:
    """Count ``value``, which the template writes, and return it: jinja2's ``finalize``."""
    if (budget := current.get()) is not None:
        budget.write(len(value) if isinstance(value, str) else 0)
    return value


class TickedLoop:
    """A loop's values; each step uses up some budget."""

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)  # type: ignore[arg-type]  # A TypeError tells jinja2 that it has no length.

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            tick()
            yield value


def bounded_concat(values: Iterable[Any]) -> str:
    """The result of ``~``. Raises TemplateTooCostly."""
    texts = [str(value) for value in values]
    _check(sum(map(len, texts)))
    return "".join(texts)


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateTooCostly for an operation whose result would be far larger than its operands."""
    if operator == "+":
        if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check(len(left) + len(right), left)
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str | list | tuple) and isinstance(times, int):
                _check(len(value) * times, value)
                return
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(0, right))
    elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
        raise TemplateTooCostly("a text is formatted with too wide a field")


def check_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """The same for calls: methods of ``str`` can make large results."""
    function = getattr(function, "__wrapped__", function)  # The sandbox wraps ``format``.
    text = getattr(function, "__self__", None)
    if not isinstance(text, str):
        return
    name = function.__name__
    if name in _PADDING:
        _check_widths(arguments)
    elif name in _FORMAT and _WIDE.search(text):
        raise TemplateTooCostly("a text is formatted with too wide a field")
    elif name == "replace" and len(arguments) > 1 and isinstance(arguments[1], str):
        _check_replaced(text, str(arguments[0]), arguments[1])
    elif name == "join" and arguments and isinstance(arguments[0], list | tuple):
        _check(sum(len(part) + len(text) for part in arguments[0] if isinstance(part, str)))


def bounded_filters() -> dict[str, Any]:
    """Bounded versions of jinja2's filters whose results may be far larger than their input."""

    def widths(name: str) -> Callable[..., Any]:
        original = FILTERS[name]

        def bounded(value: Any, *arguments: Any, **named: Any) -> Any:
            _check_widths((*arguments, *named.values()))
            return original(value, *arguments, **named)

        return bounded

    def replace(value: Any, old: str, new: str, count: int | None = None) -> str:
        text, old, new = str(value), str(old), str(new)
        _check_replaced(text, old, new)
        return text.replace(old, new, -1 if count is None else count)

    def formatted(value: Any, *arguments: Any, **named: Any) -> str:
        if arguments and named:
            raise jinja2.exceptions.FilterArgumentError("can't handle positional and keyword arguments at once")
        check_operator("%", str(value), None)
        return str(value) % (named or arguments)

    return {
        **{name: widths(name) for name in ("batch", "center", "slice")},
        "replace": replace,
        "format": formatted,
    }


class BoundLoops(NodeTransformer):
    """Rewrites a template so that its loops and its ``~`` use up the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``for x in values`` → ``for x in values | ticked``."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "ticked")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``a ~ b`` → ``[a, b] | joined``."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "joined")


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _check_widths(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_WIDTH for value in values):
        raise TemplateTooCostly(f"a width is over {MAX_WIDTH}")


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise TemplateTooCostly("a number has too many digits")


def _check_replaced(text: str, old: str, new: str) -> None:
    if (len(text) + 1) * len(new) > MAX_TEXT:  # Rare, so the places are rarely counted.
        _check(text.count(old) * len(new))


def _check(elements: int, kind: str | list[Any] | tuple[Any, ...] = "") -> None:
    """Raise TemplateTooCostly for more elements than a value of that kind may have."""
    if elements > (MAX_TEXT if isinstance(kind, str) else MAX_MEMBERS):
        raise TemplateTooCostly(f"a value has {elements} elements")
