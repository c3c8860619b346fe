"""jinja2 as transformers sets it up for chat templates."""

from __future__ import annotations

import pytest

from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest

USER: Message = {"role": "user", "content": "U"}


def rendered(source: str, *messages: Message, **variables: object) -> str:
    return ChatTemplate(source, bos_token="", eos_token="").render(list(messages), None, dict(variables)).text


def test_a_generation_block_is_its_content() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n"
        "{{ m.content }}{% endgeneration %}\n{% else %}{{ m.content }}|{% endif %}{% endfor %}"
    )
    assert rendered(source, USER, {"role": "assistant", "content": "A"}) == "U|A"


def test_a_generation_block_has_its_own_scope() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert rendered(source) == "21"


def test_loops_have_break_and_continue() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}"
        "{{ i }}{{ loop.length }}{{ loop.last }} {% endfor %}"
    )
    assert rendered(source) == "09False 29False 39False "


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("", '{"b": "é<", "a": [1, 2]}'),
        ("separators=(',', ':')", '{"b":"é<","a":[1,2]}'),
        ("sort_keys=true", '{"a": [1, 2], "b": "é<"}'),
        ("ensure_ascii=true", '{"b": "\\u00e9<", "a": [1, 2]}'),
        ("ensure_ascii=False, separators=(',', ':'), sort_keys=True", '{"a":[1,2],"b":"é<"}'),
        ("indent=1", '{\n "b": "é<",\n "a": [\n  1,\n  2\n ]\n}'),
        ("indent='-'", '{\n-"b": "é<",\n-"a": [\n--1,\n--2\n-]\n}'),
        ("true", '{"b": "\\u00e9<", "a": [1, 2]}'),
    ],
)
def test_json_is_written_as_the_template_asks(options: str, text: str) -> None:
    assert rendered(f"{{{{ value | tojson({options}) }}}}", value={"b": "é<", "a": [1, 2]}) == text


def test_unknown_options_of_json_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match="colour"):
        rendered("{{ 1 | tojson(colour='red') }}")


def test_times_have_no_zone() -> None:
    assert rendered("{{ strftime_now('[%Z%z]') }}") == "[]"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ dict(a=1).a }}{{ dict.fromkeys('ab', 0) }}", "1{'a': 0, 'b': 0}"),
        ("{% set n = namespace(a=1, self=2) %}{% set n.a = n.a + n.self %}{{ n.a }}", "3"),
        ("{{ 1 ~ none ~ 'x' ~ [1] }}", "1Nonex[1]"),
        ("{% for x in nothing %}{{ x }}{% else %}empty{% endfor %}", "empty"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{{ loop.revindex }}{% endfor %}", "a11"),
        ("{% for x in [1, 2, 3] if x != 2 %}{{ x }}{{ loop.length }}{% endfor %}", "1232"),
        ("{% for x in [[1], []] recursive %}<{{ loop(x) if x is iterable else x }}>{% endfor %}", "<<1>><>"),
        ("{{ 'aXa' | replace('X', 'Y') }}{{ 'aaa' | replace('a', 'b', 2) }}", "aYabba"),
        ("{{ '%s-%d' | format('x', 3) }}{{ 'ab' | center(4) }}|{{ 'x%02d' % 7 }}", "x-3 ab |x07"),
    ],
)
def test_other_parts_of_jinja_are_unchanged(source: str, text: str) -> None:
    assert rendered(source) == text


@pytest.mark.parametrize("name", ["_x", "__class__"])
def test_namespaces_have_no_python_attributes(name: str) -> None:
    with pytest.raises(InvalidRequest):
        rendered(f"{{% set n = namespace() %}}{{% set n.{name} = 1 %}}")
    with pytest.raises(InvalidRequest):
        rendered(f"{{{{ namespace(**{{'{name}': 1}}) }}}}")
