"""jinja2 as transformers sets it up, and within bounds."""

from __future__ import annotations

import pytest

from tailrace.chat import template_budget
from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest, ModelError

USER: Message = {"role": "user", "content": "U"}


def rendered(source: str, *messages: Message, **variables: object) -> str:
    return ChatTemplate(source, bos_token="", eos_token="").render(list(messages), None, dict(variables)).text


# What transformers has


def test_generation_blocks_are_what_stands_within() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n"
        "{{ m.content }}{% endgeneration %}\n{% else %}{{ m.content }}|{% endif %}{% endfor %}"
    )
    assert rendered(source, USER, {"role": "assistant", "content": "A"}) == "U|A"


def test_generation_blocks_have_a_scope_of_their_own() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert rendered(source) == "21"


def test_loops_can_be_left_and_gone_on_with() -> None:
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
def test_the_rest_of_jinja_is_as_it_was(source: str, text: str) -> None:
    assert rendered(source) == text


@pytest.mark.parametrize("name", ["_x", "__class__"])
def test_namespaces_have_no_attributes_of_pythons(name: str) -> None:
    with pytest.raises(InvalidRequest):
        rendered(f"{{% set n = namespace() %}}{{% set n.{name} = 1 %}}")
    with pytest.raises(InvalidRequest):
        rendered(f"{{{{ namespace(**{{'{name}': 1}}) }}}}")


# Bounds


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ ([0] * 10**9) | length }}",
        "{{ 10 ** (10 ** 8) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10**9) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ '\t'.expandtabs(10**9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{% set a = 'a' * 10**7 %}{{ a.replace('a', a) }}",
        "{% set a = 'a' * 10**7 %}{{ a | replace('a', a) }}",
        "{% set a = 'a' * 10**7 %}{{ a.join([a] * 100) }}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set s %}{{ n.s }}{{ n.s }}{% endset %}"
        "{% set n.s = s %}{% endfor %}",
        "{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}",
        "{{ lipsum(n=10**9) }}",
    ],
)
def test_a_large_value_is_never_made_of_a_small_one(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rendered(source)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else '' }}{% endmacro %}{{ f(60) }}",
        "{% for m in messages %}{% for m in messages %}{% for m in messages %}{% endfor %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_budget, "MAX_CPU_SECONDS", 0.2)
    with pytest.raises(InvalidRequest, match="computes for more than"):
        rendered(source, *[USER, {"role": "assistant", "content": "A"}] * 1000)


def test_a_long_conversation_is_within_the_bounds() -> None:
    messages: list[Message] = [{"role": "user", "content": f"message {n} " + "x" * 1000} for n in range(20_000)]
    assert len(rendered("{% for m in messages %}{{ m.content }}{% endfor %}", *messages)) > 20_000_000


@pytest.mark.parametrize(
    "source", ["{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "x" * 1_000_001, "{% if %}", "{{ 1 | no }}"]
)
def test_what_can_not_be_compiled_is_told(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(source, bos_token="", eos_token="")


def test_a_model_whose_template_can_not_be_compiled_refuses_conversations_alone() -> None:
    template = ChatTemplate.of_model("{% for %}", bos_token="", eos_token="")
    assert template.source == "{% for %}"
    with pytest.raises(InvalidRequest, match=r"can't be compiled.*--chat-template") as caught:
        template.render([USER])
    assert caught.value.code == "chat_template_unusable"
