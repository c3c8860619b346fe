"""Chat templates: what they are given, what they may not do, and what happens when they refuse."""

from __future__ import annotations

import pytest

from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest, ModelError

LIST = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
SYSTEM: Message = {"role": "system", "content": "S"}
LATE: Message = {"role": "system", "content": "T"}
USER: Message = {"role": "user", "content": "U"}
REPLY: Message = {"role": "assistant", "content": "A"}


def template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>")


def test_without_a_template_chatml() -> None:
    rendered = template(None).render([SYSTEM, USER]).text
    assert rendered == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


def test_variables_of_a_template() -> None:
    source = "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ mine }}{{ messages[0].content }}"
    assert template(source).render([USER], [1], {"mine": "m"}).text == "<s></s>True[1]mU"
    assert template("{{ tools is none }}").render([]).text == "True"


def test_a_requests_variables_cannot_replace_the_servers() -> None:
    rendered = (
        template("{{ bos_token }}{{ messages[0].content }}")
        .render([USER], None, {"messages": [], "bos_token": "", "tools": 1})
        .text
    )
    assert rendered == "<s>U"


def test_blocks_are_trimmed_as_transformers_does() -> None:
    assert template("{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}").render([]).text == "x\n"


def test_helpers_that_templates_use() -> None:
    assert template("{{ messages | tojson }}").render([USER]).text == '[{"role": "user", "content": "U"}]'
    assert template("{{ '<é>' | tojson }}").render([]).text == '"<é>"'
    assert len(template("{{ strftime_now('%Y-%m-%d') }}").render([]).text) == 10
    loop = "{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert template(loop).render([]).text == "01"


# Roles


def test_developer_is_system_where_the_template_does_not_know_it() -> None:
    developer: Message = {"role": "developer", "content": "D"}
    assert template(LIST).render([developer, USER]).text == "[system]D[user]U"
    assert template(LIST + "{# developer #}").render([developer, USER]).text == "[developer]D[user]U"


def test_system_messages_stay_in_place_where_the_template_supports_it() -> None:
    assert template(LIST).render([USER, LATE, SYSTEM]).text == "[user]U[system]T[system]S"


FIRST_ONLY = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('System must be first') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def test_system_messages_are_joined_at_the_start_where_they_must_be_first() -> None:
    assert template(FIRST_ONLY).render([SYSTEM, USER, LATE, REPLY]).text == "[system]S\n\nT[user]U[assistant]A"


def test_system_text_goes_into_the_first_user_message_where_there_is_no_system_role() -> None:
    assert template(NO_SYSTEM).render([SYSTEM, REPLY, USER, LATE, USER]).text == "[assistant]A[user]S\n\nT\n\nU[user]U"


def test_the_messages_are_left_as_they_were() -> None:
    messages = [SYSTEM, USER]
    template(NO_SYSTEM).render(messages)
    assert messages == [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


# Refusals


def test_what_a_template_refuses_is_the_clients_fault_in_its_own_words() -> None:
    with pytest.raises(InvalidRequest, match="Roles must alternate") as caught:
        template("{{ raise_exception('Roles must alternate') }}").render([USER])
    assert caught.value.param == "messages"
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content.split() }}",
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages[0]['content'] | int % 0 }}",
        "{{ {}['a'].b }}",
        "{{ 5 | items | list }}",
        "{{ [1] | dictsort }}",
        "{{ [] | first | upper | length / messages[9] }}",
        "{{ nothing() }}",
        "{{ messages[0].content() }}",
        "{{ strftime_now(5) }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{{ 'a' * 10**20 }}",
    ],
)
def test_a_template_that_fails_on_the_messages_is_a_400(source: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template(source).render([USER])
    assert caught.value.param == "messages"


def test_tools_too_deep_to_be_printed_are_a_400() -> None:
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest):
        template("{{ tools | tojson }}").render([USER], [deep])


def test_an_invalid_template_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="template"):
        template("{% for %}")


# The sandbox


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ().__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['datetime'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ (messages | map(attribute='__class__') | list) }}",
    ],
)
def test_templates_come_with_downloaded_models_and_reach_nothing_outside(source: str) -> None:
    try:
        shown = template(source).render([]).text
    except InvalidRequest:
        return
    assert "class" not in shown
    assert "uid=" not in shown
    assert "module" not in shown


@pytest.mark.parametrize(
    "source", ["{{ messages.append(1) }}", "{{ messages[0].update({'a': 1}) }}", "{{ messages.clear() }}"]
)
def test_templates_change_nothing(source: str) -> None:
    messages = [dict(USER)]
    with pytest.raises(InvalidRequest):
        template(source).render(messages)
    assert messages == [USER]


# Invalid templates


@pytest.mark.parametrize(
    "source", ["{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "x" * 1_000_001, "{% if %}", "{{ 1 | no }}"]
)
def test_a_template_that_can_not_be_compiled_is_reported(source: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatTemplate(source, bos_token="", eos_token="")


def test_a_model_whose_template_can_not_be_compiled_refuses_conversations_alone() -> None:
    template = ChatTemplate.of_model("{% for %}", bos_token="", eos_token="")
    assert template.source == "{% for %}"
    with pytest.raises(InvalidRequest, match=r"can't be compiled.*--chat-template") as caught:
        template.render([USER])
    assert caught.value.code == "chat_template_unusable"
