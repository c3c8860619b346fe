"""Bounds the work of a chat template: it comes with a downloaded model, and loops over texts of clients.

One rendering has a ``RenderBudget`` of CPU time and characters. Loops, calls and outputs use it up. An operation that
makes a large value of a small one (``'a' * 10**9``, a width, a power) is refused before it is computed.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

#: Processor seconds of one rendering. The largest conversation of a context of 131,072 tokens takes about 0.1 s.
MAX_CPU_SECONDS = 2.0
#: Processor seconds of a rendering that other work waits for.
BRIEF_CPU_SECONDS = 0.05
#: Characters that one rendering may write into the prompt or into variables, beside ``MAX_EXPANSION`` times the
#: messages' own.
MAX_CHARACTERS = 32_000_000
MAX_EXPANSION = 16
#: Characters of one text, and members of one list, that an operator, a method or a filter makes.
MAX_TEXT = 64_000_000
MAX_MEMBERS = 1_000_000
#: Characters of the widest padding: real templates pad a line at most.
MAX_WIDTH = 10_000
#: Elements of a list, with all that its elements contain, that a template writes down as such.
MAX_NESTED = 50_000
#: Loops, calls and outputs for each reading of the clock. A thousand characters count as one more.
_STRIDE = 256
_CHARACTERS = 1024
#: Processor seconds after which a long rendering lets other threads go on, and for how long.
_WORK_SECONDS = 0.002
_REST_SECONDS = 0.002
#: Characters of a large text.
LARGE_TEXT = 100_000
#: Characters of the input of filters that take long for each of them.
_MAX_SLOW_INPUT = 100_000
_SLOW_FILTERS = ("urlize", "striptags", "wordwrap", "wordcount", "title", "pprint", "xmlattr", "forceescape")
_MAX_BITS = 4096
#: From which size on values count.
_COUNTED: dict[type, int] = {str: LARGE_TEXT, Markup: LARGE_TEXT, list: 1000, tuple: 1000, range: 1000}
_WIDE = re.compile(r"\d{5,}|\*|\{[^{}]*\{")
_PADDING = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_FORMAT = frozenset({"format", "format_map"})


class TemplateTooCostly(jinja2.TemplateError):
    """The template exceeds a rendering's budget."""


class RenderTakesLong(Exception):
    """The template takes longer than other work may wait for: it has to be rendered again on a thread."""


#: Whether other work waits for this thread's renderings.
_brief: ContextVar[bool] = ContextVar("template_brief", default=False)


@contextlib.contextmanager
def rendering_briefly() -> Iterator[None]:
    """Within, a rendering of more than ``BRIEF_CPU_SECONDS`` raises RenderTakesLong."""
    token = _brief.set(True)
    try:
        yield
    finally:
        _brief.reset(token)


class RenderBudget:
    """The rest of one rendering's budget."""

    __slots__ = ("_characters", "_deadline", "_is_brief", "_next_look", "_next_rest", "_ticks", "has_large_texts")

    def __init__(self, characters: int) -> None:
        """``characters`` of the conversation."""
        self._characters = MAX_CHARACTERS + MAX_EXPANSION * characters
        #: Whether lists may contain texts so large that their sum has to be known before they are written.
        self.has_large_texts = characters > LARGE_TEXT
        self._is_brief = _brief.get()
        self._deadline = time.thread_time() + (BRIEF_CPU_SECONDS if self._is_brief else MAX_CPU_SECONDS)
        self._ticks = 0
        self._next_look = _STRIDE
        self._next_rest = time.thread_time() + _WORK_SECONDS

    def tick(self, weight: int = 1) -> None:
        """One more loop, call or output. Raises TemplateTooCostly and RenderTakesLong."""
        self._ticks += weight
        if self._ticks >= self._next_look:
            self._look()

    def write(self, characters: int) -> None:
        """The template writes ``characters``. Raises TemplateTooCostly and RenderTakesLong."""
        self._ticks += 1
        if self._ticks >= self._next_look:
            self._look()
        self._characters -= characters
        if characters > LARGE_TEXT:
            self.process_large(characters)
        if self._characters < 0:
            raise TemplateTooCostly("it writes far more than the messages have")

    def process_large(self, characters: int) -> None:
        """The template works on a large text. Raises TemplateTooCostly and RenderTakesLong."""
        self.has_large_texts = True
        self.tick(characters // _CHARACTERS)

    def _look(self) -> None:
        self._next_look = self._ticks + _STRIDE
        now = time.thread_time()
        if now > self._deadline:
            if self._is_brief:
                raise RenderTakesLong
            raise TemplateTooCostly(f"it computes for more than {MAX_CPU_SECONDS:g} s")
        if not self._is_brief and now > self._next_rest:
            time.sleep(_REST_SECONDS)  # Other threads wait for this one's Python code.
            self._next_rest = now + _WORK_SECONDS


#: The budget of this thread's rendering; None while a template is compiled.
current: ContextVar[RenderBudget | None] = ContextVar("template_budget", default=None)


def tick(weight: int = 1) -> None:
    """Take ``weight`` steps of the current budget."""
    if (budget := current.get()) is not None:
        budget.tick(weight)


def count_written(value: Any) -> Any:
    """Count ``value``, which the template writes, and return it: jinja2's ``finalize``."""
    if (budget := current.get()) is not None:
        if isinstance(value, str):
            budget.write(len(value))
        else:
            if budget.has_large_texts:
                check_printed(value)
            budget.tick()
    return value


def check_printed(value: Any) -> None:
    """Raise TemplateTooCostly where the text of a list, tuple or dict would be too large."""
    budget = current.get()
    if budget is None or not budget.has_large_texts or not isinstance(value, list | tuple | dict):
        return
    characters = 0
    rest = [value]
    while rest:
        each = rest.pop()
        for member in each.values() if isinstance(each, dict) else each:
            if isinstance(member, str):
                characters += len(member)
            elif isinstance(member, list | tuple | dict):
                rest.append(member)
        tick(1 + len(each) // 16)
        _check(characters)


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
    values = list(values)
    for value in values:
        check_printed(value)
    texts = [str(value) for value in values]
    _check(sum(map(len, texts)))
    return "".join(texts)


def bounded_container(value: Any) -> Any:
    """A list, tuple or dict that the template writes down. Raises TemplateTooCostly where it contains too much: nested
    lists of few elements can stand for any number of them.
    """
    elements = 0
    rest = [value]
    while rest:
        each = rest.pop()
        members = each.values() if isinstance(each, dict) else each
        elements += len(members)
        if elements > MAX_NESTED:
            raise TemplateTooCostly(f"a list contains more than {MAX_NESTED} elements")
        rest += [member for member in members if isinstance(member, list | tuple | dict)]
    tick(1 + elements // 16)
    return value


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateTooCostly for an operation whose result would be far larger than its operands."""
    if operator == "+":
        if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check(len(left) + len(right), left)
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str | list | tuple) and isinstance(times, int):
                _check(len(value) * times, value)
                if not isinstance(value, str) and times > 1:
                    bounded_container([value] * min(times, MAX_NESTED))
                return
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(0, right))
    elif operator == "%" and isinstance(left, str):
        check_printed(right)
        if _WIDE.search(left):
            raise TemplateTooCostly("a text is formatted with too wide a field")


def check_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """The same for calls: methods of ``str`` can make large results."""
    function = getattr(function, "__wrapped__", function)  # The sandbox wraps ``format``.
    text = getattr(function, "__self__", None)
    if not isinstance(text, str):
        return
    if len(text) > LARGE_TEXT and (budget := current.get()) is not None:
        budget.process_large(len(text))
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

    def short(name: str) -> Callable[..., Any]:
        original = FILTERS[name]

        @functools.wraps(original)
        def bounded(*arguments: Any, **named: Any) -> Any:
            if any(isinstance(value, str) and len(value) > _MAX_SLOW_INPUT for value in arguments):
                raise TemplateTooCostly(f"the filter {name} gets more than {_MAX_SLOW_INPUT} characters")
            return original(*arguments, **named)

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

    def indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        text = str(value)
        step = width if isinstance(width, int) else len(str(width))
        _check(len(text) + (text.count("\n") + 1) * step)
        return FILTERS["indent"](text, width, first, blank)

    @functools.wraps(FILTERS["join"])
    def join(eval_ctx: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
        if attribute is not None:
            value = map(make_attrgetter(eval_ctx.environment, attribute), value)
        value = value if isinstance(value, list | tuple) else list(value)
        check_printed(value)
        _check(sum(len(part) if isinstance(part, str) else 1 for part in value) + len(str(d)) * len(value))
        return FILTERS["join"](eval_ctx, value, d)

    def string(value: Any) -> Any:
        check_printed(value)
        return FILTERS["string"](value)

    return {
        **{name: widths(name) for name in ("batch", "center", "slice")},
        **{name: short(name) for name in _SLOW_FILTERS if name in FILTERS},
        "replace": replace,
        "format": formatted,
        "indent": indent,
        "join": join,
        "string": string,
    }


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that uses up budget where its value or its result is large."""
    place = int(hasattr(function, "jinja_pass_arg"))  #: the value's, behind the context

    @functools.wraps(function)
    def counting(*arguments: Any, **named: Any) -> Any:
        value: Any = arguments[place] if len(arguments) > place else None
        result = function(*arguments, **named)
        if type(result) in _COUNTED and len(result) > _COUNTED[type(result)]:
            _count_large(result)
        if type(value) in _COUNTED and len(value) > _COUNTED[type(value)]:
            _count_large(value)
        return result

    return counting


def _count_large(value: Any) -> None:
    if (budget := current.get()) is None:
        return
    if isinstance(value, str):
        budget.process_large(len(value))
    else:
        budget.tick(len(value) // 16)


class BoundLoops(NodeTransformer):
    """Rewrites a template so that its loops, its lists and its ``~`` use up the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``for x in values`` → ``for x in values | ticked``."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "ticked")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``a ~ b`` → ``[a, b] | joined``."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "joined")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``[a, b]`` → ``[a, b] | contained``."""
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _filtered(node, "contained")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``(a, b)`` → ``(a, b) | contained``, unless it is assigned to."""
        self.generic_visit(node)
        plain = node.ctx != "load" or all(isinstance(item, nodes.Const) for item in node.items)
        return node if plain else _filtered(node, "contained")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802  # jinja2's name for the visitor
        """``{a: b}`` → ``{a: b} | contained``."""
        self.generic_visit(node)
        return node if all(isinstance(pair.value, nodes.Const) for pair in node.items) else _filtered(node, "contained")


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
    if elements > LARGE_TEXT and (budget := current.get()) is not None:
        budget.process_large(elements)
    if elements > (MAX_TEXT if isinstance(kind, str) else MAX_MEMBERS):
        raise TemplateTooCostly(f"a value has {elements} elements")
