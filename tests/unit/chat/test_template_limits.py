"""A template's work is bounded: its results, its CPU time and its output."""

from __future__ import annotations

import pytest

from tailrace.chat import template_limits
from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest

USER: Message = {"role": "user", "content": "U"}


def rendered(source: str, *messages: Message, **variables: object) -> str:
    return ChatTemplate(source, bos_token="", eos_token="").render(list(messages), None, dict(variables)).text


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
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=(1,)) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ n.s in [1] }}",
        "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = {'a': n.s, 'b': n.s} %}{% endfor %}",
        "{% set n = namespace(s={}) %}{% for i in range(60) %}{% set n.s = dict(a=n.s, b=n.s) %}{% endfor %}{{ n.s }}",
        "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = (n.s | batch(9) | list) * 2 %}{% endfor %}",
        "{% set s = 'a' * 10**7 %}{{ ([s] * 100) | join }}",
        "{% set s = 'a' * 10**7 %}{{ ([{'a': s}] * 100) | join(attribute='a') }}",
        "{% set s = 'a' * 10**7 %}{{ ([s] * 100) | tojson }}",
        "{% set s = 'a' * 10**7 %}{{ [s] * 100 }}",
        "{% set s = 'a' * 10**7 %}{{ ([s] * 100) | string }}",
        "{% set s = 'a' * 10**7 %}{{ '' ~ [s] * 100 }}",
        "{% set s = 'a' * 10**7 %}{{ '%s' % ([s] * 100,) }}",
        "{{ ('\n' * 10**6) | indent(10**5) }}",
        "{{ ('<' * 10**6) | striptags }}",
    ],
)
def test_a_small_value_is_never_turned_into_a_large_one(source: str) -> None:
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
    monkeypatch.setattr(template_limits, "MAX_CPU_SECONDS", 0.2)
    with pytest.raises(InvalidRequest, match="computes for more than"):
        rendered(source, *[USER, {"role": "assistant", "content": "A"}] * 1000)


def test_a_long_conversation_is_within_the_budget() -> None:
    messages: list[Message] = [{"role": "user", "content": f"message {n} " + "x" * 1000} for n in range(20_000)]
    assert len(rendered("{% for m in messages %}{{ m.content }}{% endfor %}", *messages)) > 20_000_000


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% set s = ('a' * 10**6) | upper %}{% endfor %}",
    ],
)
def test_a_rendering_that_others_wait_for_is_cut_short(source: str) -> None:
    template = ChatTemplate("{% if messages | length > 4 %}" + source + "{% endif %}", bos_token="", eos_token="")
    with template_limits.rendering_briefly(), pytest.raises(template_limits.RenderTakesLong):
        template.render([USER, {"role": "assistant", "content": "A"}] * 4)
