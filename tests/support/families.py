# ruff: noqa: E501  # Replies are easier to compare on one line.
"""Excerpts of each family's published chat template, and replies of its models."""

from __future__ import annotations

from typing import Any, NamedTuple

from parsed_replies import Call
from tailrace.chat.reply_parts import ReasoningPart, TextPart

FUNCTIONS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}

ROME = Call("weather", '{"city": "Rome"}', whole=True)
KYOTO = Call("weather", '{"city": "京都 ⛩️", "days": 2}', whole=True)
NOW = Call("now", "{}", whole=True)


class Sample(NamedTuple):
    """A family's name, an excerpt of a template, and replies with what is in them."""

    family: str
    template: str
    replies: list[tuple[str, list[TextPart | ReasoningPart | Call]]]


_LOOP = "{% for m in messages %}{{ m.content }}{% for t in m.tool_calls or [] %}"
_END = "{% endfor %}{% endfor %}{% if add_generation_prompt %}"

SAMPLES = [
    Sample(
        "hermes",
        "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>"
        "return a json object within <tool_call></tool_call> XML tags:{% endif %}"
        + _LOOP
        + "<tool_call>\n{{ t | tojson }}\n</tool_call>"
        + _END
        + "<|im_start|>assistant\n{% endif %}<think>",
        [
            (
                "<think>\nThe user asks.\n</think>\n\nLet me look.\n<tool_call>\n"
                '{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n<tool_call>\n'
                '{"name": "weather", "arguments": {"city": "京都 ⛩️", "days": 2}}\n</tool_call>',
                [ReasoningPart("The user asks."), TextPart("Let me look."), ROME, KYOTO],
            ),
            ('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', [NOW]),
            ("It is sunny in Rome ☀️.", [TextPart("It is sunny in Rome ☀️.")]),
        ],
    ),
    Sample(
        "qwen_coder",
        "{% if tools %}{{ tools }}<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>"
        "\nvalue_1\n</parameter>\n</function>\n</tool_call>{% endif %}" + _LOOP + "<tool_call>" + _END + "{% endif %}",
        [
            (
                "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n"
                "</tool_call>\n<tool_call>\n<function=weather>\n<parameter=city>\n京都 ⛩️\n</parameter>\n"
                "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
                [TextPart("I look."), ROME, KYOTO],
            ),
            ("<tool_call>\n<function=now>\n</function>\n</tool_call>", [NOW]),
            ("<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>", [ROME]),
            (
                '<tool_call>\n<function=weather>\n<parameter=city>\n"a"\n\n<b>\\\n</parameter>\n</function>\n</tool_call>',
                [Call("weather", '{"city": "\\"a\\"\\n\\n<b>\\\\"}', whole=True)],
            ),
        ],
    ),
    Sample(
        "glm",
        "[gMASK]<sop>{% if tools %}{{ tools }}<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n"
        "<arg_value>{arg-value-1}</arg_value>\n</tool_call>{% endif %}" + _LOOP + _END + "<|assistant|>{% endif %}",
        [
            (
                "<think>Look.</think>I look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
                "</tool_call>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>京都 ⛩️</arg_value>\n"
                "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
                [ReasoningPart("Look."), TextPart("I look."), ROME, KYOTO],
            ),
            ("<tool_call>now\n</tool_call>", [NOW]),
            ("<tool_call>now</tool_call>", [NOW]),
        ],
    ),
    Sample(
        "glm4",
        "[gMASK]<sop>{% if tools %}{{ tools }}{% endif %}" + _LOOP + _END + "<|observation|><|assistant|>{% endif %}",
        [
            ('weather\n{"city": "Rome"}', [ROME]),
            ("weather is fine", [TextPart("weather is fine")]),
        ],
    ),
    Sample(
        "llama",
        "<|start_header_id|>{% if tools %}{{ tools }}Respond in the format "
        '{"name": function name, "parameters": dictionary}{% endif %}'
        + _LOOP
        + "<|python_tag|>"
        + _END
        + "{% endif %}",
        [
            ('{"name": "weather", "parameters": {"city": "Rome"}}', [ROME]),
            (
                '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Rome"}}; '
                '{"name": "weather", "parameters": {"city": "京都 ⛩️", "days": 2}}',
                [ROME, KYOTO],
            ),
            ('<function=weather>{"city": "Rome"}</function>', [ROME]),
            ('{"answer": 42}', [TextPart('{"answer": 42}')]),
            ('{"name": "Anna", "parameters": {}}', [TextPart('{"name": "Anna", "parameters": {}}')]),
        ],
    ),
    Sample(
        "mistral",
        "{% if tools %}[AVAILABLE_TOOLS] {{ tools }}[/AVAILABLE_TOOLS]{% endif %}[INST]"
        + _LOOP
        + '[TOOL_CALLS] [{{ t }}, "id": ]'
        + _END
        + "{% endif %}",
        [
            (
                '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}, "id": "9Ae3bDc2F"}, '
                '{"name": "weather", "arguments": {"city": "京都 ⛩️", "days": 2}}]',
                [ROME, KYOTO],
            ),
            ('[TOOL_CALLS][{"name": "now", "arguments": {}}]', [NOW]),
        ],
    ),
    Sample(
        "mistral_args",
        "{% if tools %}[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS]{% endif %}[INST]"
        + _LOOP
        + "[TOOL_CALLS]{{ t.function.name }}[ARGS]{{ t.function.arguments }}"
        + _END
        + "{% endif %}",
        [
            (
                '[THINK]I look.[/THINK]Yes.[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'
                '[TOOL_CALLS]weather[CALL_ID]123456789[ARGS]{"city": "京都 ⛩️", "days": 2}',
                [ReasoningPart("I look."), TextPart("Yes."), ROME, KYOTO],
            ),
            ("[THINK]I look.[TOOL_CALLS]now{}", [ReasoningPart("I look."), NOW]),
        ],
    ),
    Sample(
        "deepseek",
        "{% if tools %}{{ tools }}{% endif %}" + _LOOP + "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ t.type }}"
        "<｜tool▁sep｜>{{ t.function.name }}\n```json\n{{ t.function.arguments }}\n```<｜tool▁call▁end｜>"
        + _END
        + "<｜Assistant｜><think>\n{% endif %}",
        [
            (
                "<think>\nHm.\n</think>\n\nI look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
                '```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n'
                '```json\n{"city": "京都 ⛩️", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
                [ReasoningPart("Hm."), TextPart("I look."), ROME, KYOTO],
            ),
        ],
    ),
    Sample(
        "deepseek_v3.1",
        "{% if tools %}{{ tools }}{% endif %}"
        + _LOOP
        + "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ t.function.name }}"
        "<｜tool▁sep｜>{{ t.function.arguments }}<｜tool▁call▁end｜>" + _END + "<｜Assistant｜></think>{% endif %}",
        [
            (
                "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
                '{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>'
                "<｜tool▁calls▁end｜>",
                [TextPart("I look."), ROME, NOW],
            ),
        ],
    ),
    Sample(
        "kimi",
        "{% if tools %}<|im_system|>tool_declare<|im_middle|>{{ tools }}{% endif %}"
        + _LOOP
        + "<|tool_calls_section_begin|><|tool_call_begin|>{{ t.id }}<|tool_call_argument_begin|>"
        + _END
        + "{% endif %}",
        [
            (
                "<think>Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
                '<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|><|tool_call_begin|>functions.now:1'
                "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
                [ReasoningPart("Hm."), ROME, NOW],
            ),
        ],
    ),
    Sample(
        "phi",
        "{% if tools %}<|tool|>{{ tools }}<|/tool|>{% endif %}" + _LOOP + _END + "<|assistant|>{% endif %}",
        [
            (
                '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]'
                "<|/tool_call|>",
                [ROME, NOW],
            ),
            ('functools[{"name": "weather", "arguments": {"city": "Rome"}}]', [ROME]),
        ],
    ),
    Sample(
        "harmony",
        "{% if tools %}namespace functions { {{ tools }} }{% endif %}<|channel|>analysis<|message|>"
        + _LOOP
        + _END
        + "<|start|>assistant{% endif %}",
        [
            (
                "<|channel|>analysis<|message|>The user asks.<|end|><|start|>assistant<|channel|>commentary<|message|>"
                "I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
                '{"city": "Rome"}<|call|>',
                [ReasoningPart("The user asks."), TextPart("I look."), ROME],
            ),
            (" to=functions.now<|channel|>commentary json<|message|>{}", [NOW]),
            ("<|channel|>commentary to=functions.now<|message|>", [NOW]),
            ("<|channel|>final<|message|>Sunny ☀️.<|return|>", [TextPart("Sunny ☀️.")]),
            ("Sunny.", [TextPart("Sunny.")]),
        ],
    ),
    Sample(
        "gemma",
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>{% endfor %}",
        [
            ("<think> is text here", [TextPart("<think> is text here")]),
            ('<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>', [ROME]),
        ],
    ),
    Sample(
        "generic",
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
        [
            ("<think>Hm.</think>Yes.", [ReasoningPart("Hm."), TextPart("Yes.")]),
            ('<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>', [ROME]),
            ('{"name": "weather", "arguments": {"city": "Rome"}}', [ROME]),
            ('[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "now"}]', [ROME, NOW]),
            ("[a link](b)", [TextPart("[a link](b)")]),
        ],
    ),
]
