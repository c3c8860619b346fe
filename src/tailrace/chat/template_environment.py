"""jinja2 as transformers sets it up for chat templates, in a sandbox.

It has ``{% generation %}`` blocks (transformers' marks of the model's own text), loop controls, ``tojson`` with json's
options, ``raise_exception`` and ``strftime_now``. ``dict`` and ``namespace`` give no access to Python's attributes.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tailrace.chat import template_limits


class TemplateRefusal(jinja2.TemplateError):
    """The template itself called ``raise_exception``."""


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """See the module. ``template_limits`` bounds the work of a template."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=template_limits.count_written,
        )
        self.filters |= template_limits.bounded_filters()
        self.filters |= {
            "tojson": to_json,
        }
        self.filters = {name: template_limits.counted(function) for name, function in self.filters.items()}
        self.filters |= {
            "ticked": template_limits.TickedLoop,
            "joined": template_limits.bounded_concat,
            "contained": template_limits.bounded_container,
        }
        self.globals |= {
            "raise_exception": _refuse,
            "strftime_now": _now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        del self.globals["lipsum"]  # Its random text costs seconds, and no prompt needs it.

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See jinja2's sandbox."""
        template_limits.check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See jinja2's sandbox."""
        template_limits.tick()
        template_limits.check_call(obj, args)
        return super().call(context, obj, *args, **kwargs)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        template_limits.BoundLoops().visit(source)
        return super()._generate(source, *args, **kwargs)


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}``: just the block's content, in its own scope."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """See jinja2's extensions."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("within"), [], [], body).set_lineno(line)

    def within(self, caller: Any) -> str:
        """The block's text."""
        return str(caller())


class _Dict:
    """``dict`` without the class's own attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        made: dict[Any, Any] = template_limits.bounded_container(dict(*args, **kwargs))
        return made

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """See ``dict.fromkeys``."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` without attributes of Python's own."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # So that ``namespace(self=1)`` works.
        for name in dict(*args[1:], **kwargs):
            _check_name(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # jinja2's shows all that it contains.


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter ``tojson``. jinja2's own escapes HTML, but models were trained on plain JSON."""
    if isinstance(indent, int) and indent > template_limits.MAX_WIDTH:
        raise template_limits.TemplateTooCostly(f"a width is over {template_limits.MAX_WIDTH}")
    template_limits.check_printed(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't have an attribute {name!r}")
