"""Arguments of earlier calls: objects where they are some, text where not, whatever a template does with them."""

from __future__ import annotations

import pytest

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.template import ChatTemplate

CUT = '{"city": "Ro'


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ('{"city": "Rome"}', {"city": "Rome"}),
        ({"city": "Rome"}, {"city": "Rome"}),
        (CUT, CUT),
        ("[1]", "[1]"),
        ("5", "5"),
        ([1], "[1]"),
        (5, "5"),
        (True, "true"),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        (None, {}),
        ("{}", {}),
    ],
)
def test_an_object_where_it_is_one_and_the_text_where_not(given: object, read: object) -> None:
    assert decode_arguments(given) == read


@pytest.mark.parametrize("depth", [257, 400, 100_000])
def test_what_is_nested_deeply_is_text(depth: int) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    assert decode_arguments(text) == text
    assert isinstance(decode_arguments('{"a":' * 200 + "1" + "}" * 200), dict)


#: What templates do with arguments, and what comes of an object and of a text that is none.
TEMPLATES = {
    "{{ a | tojson }}": ('{"city": "Rome"}', '"{\\"city\\": \\"Ro"'),
    "{% if a is string %}{{ a }}{% else %}{{ a | tojson }}{% endif %}": ('{"city": "Rome"}', CUT),
    "{{ a + '!' }}": ('{"city": "Rome"}!', CUT + "!"),
    "{{ '!' + a }}": ('!{"city": "Rome"}', "!" + CUT),
    "{{ a }}": ('{"city": "Rome"}', CUT),
    "{% for k, v in a.items() %}{{ k }}={{ v }}{% endfor %}.": ("city=Rome.", "."),
    "{% for k, v in a | items %}{{ k }}={{ v }}{% endfor %}.": ("city=Rome.", "."),
    "{% for k in a %}{{ k }}={{ a[k] }}{% endfor %}.": ("city=Rome.", "."),
    "{% if a is not mapping %}{{ raise_exception('no') }}{% endif %}{{ a | tojson }}": ('{"city": "Rome"}', "{}"),
}


@pytest.mark.parametrize("body", TEMPLATES)
def test_every_template_gets_what_it_can_take(body: str) -> None:
    loop = "{% for m in messages %}{% for c in m.tool_calls %}{% set a = c.function.arguments %}"
    template = ChatTemplate(f"{loop}{body}{{% endfor %}}{{% endfor %}}", bos_token="", eos_token="")
    for given, expected in zip(({"city": "Rome"}, CUT), TEMPLATES[body], strict=True):
        call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": given}}
        messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
        assert template.render(messages).text == expected
