"""Chat templates by the names that llama.cpp's ``--chat-template`` has, written in Jinja.

Most formats put a fixed text before and after each role's message: ``_turns`` writes their templates from a row. A test
compares every template's prompts with those of llama.cpp's own formatter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

#: Where a row has the message's content, as it is or without surrounding white space.
_AS_IS, _TRIMMED = "\N{SECTION SIGN}", "\N{PILCROW SIGN}"
_CONTENTS = {_AS_IS: "message.content", _TRIMMED: "message.content | trim"}


def _output(row: str) -> str:
    """The Jinja expression that writes a row's text and content."""
    for mark, content in _CONTENTS.items():
        before, found, after = row.partition(mark)
        if found:
            return f"{{{{ {_quoted(before)} + ({content}) + {_quoted(after)} }}}}"
    return f"{{{{ {_quoted(row)} }}}}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _prompted(body: str, reply: str) -> str:
    """A template with the beginning of the reply at its end."""
    return body + (f"{{% if add_generation_prompt %}}{_output(reply)}{{% endif %}}" if reply else "")


def _turns(system: str, user: str, assistant: str, reply: str, *, begin: str = "", **others: str) -> str:
    """A template whose messages are independent. ``begin`` comes first; ``others`` are rows of further roles."""
    rows = {"system": system, "user": user, "assistant": assistant, **others}
    branches = [f"if message.role == {_quoted(role)} %}}{_output(row)}{{% " for role, row in rows.items()]
    body = "{% " + "el".join(branches) + "endif %}"
    start = _output(begin) if begin else ""
    return _prompted(f"{start}{{% for message in messages %}}{body}{{% endfor %}}", reply)


def _any_role(before: str, after: str, reply: str, *, trimmed: bool = False, begin: str = "") -> str:
    """A template that names the role between ``before`` and the first line of ``after``, with no other difference."""
    content = _CONTENTS[_TRIMMED if trimmed else _AS_IS]
    middle, end = after.split(_AS_IS)
    start = _output(begin) if begin else ""
    turn = f"{{{{ {_quoted(before)} + message.role + {_quoted(middle)} + ({content}) + {_quoted(end)} }}}}"
    return _prompted(f"{start}{{% for message in messages %}}{turn}{{% endfor %}}", reply)


def _llama2(*, system: bool = True, start_token: bool = False, trim: bool = False) -> str:
    content = _CONTENTS[_TRIMMED if trim else _AS_IS]
    opening = _quoted(("<s>" if start_token else "") + "[INST] ")
    before, after = ("<<SYS>>\n", "\n<</SYS>>\n\n") if system else ("", "\n")
    return (
        '{{ "[INST] " }}{% set ns = namespace(open=true) %}{% for message in messages %}'
        f"{{% if not ns.open %}}{{{{ {opening} }}}}{{% set ns.open = true %}}{{% endif %}}"
        f'{{% if message.role == "system" %}}{{{{ {_quoted(before)} + ({content}) + {_quoted(after)} }}}}'
        f'{{% elif message.role == "user" %}}{{{{ ({content}) + " [/INST]" }}}}'
        f'{{% else %}}{{{{ ({content}) + "</s>" }}}}{{% set ns.open = false %}}{{% endif %}}{{% endfor %}}'
    )


def _mistral(*, leading: str, trailing: str, trim: bool = False) -> str:
    content = _CONTENTS[_TRIMMED if trim else _AS_IS]
    return (
        "{% set ns = namespace(open=false) %}{% for message in messages %}"
        f"{{% if not ns.open %}}{{{{ {_quoted(f'{leading}[INST]{trailing}')} }}}}"
        "{% set ns.open = true %}{% endif %}"
        '{% if message.role == "system" %}{{ message.content + "\\n\\n" }}'
        f'{{% elif message.role == "user" %}}{{{{ message.content + {_quoted(f"{leading}[/INST]")} }}}}'
        f'{{% else %}}{{{{ {_quoted(trailing)} + ({content}) + "</s>" }}}}{{% set ns.open = false %}}{{% endif %}}'
        "{% endfor %}"
    )


def _merged_system(user: str, assistant: str, reply: str, *, trim: bool) -> str:
    """A template that writes the system text into the next message of the user."""
    system, content = (_CONTENTS[_TRIMMED if trim else _AS_IS],) * 2
    before, after = user.split(_AS_IS)
    answer_before, answer_after = assistant.split(_AS_IS)
    return _prompted(
        '{% set ns = namespace(system="") %}{% for message in messages %}'
        f'{{% if message.role == "system" %}}{{% set ns.system = ns.system + ({system}) %}}'
        f'{{% elif message.role == "user" %}}{{{{ {_quoted(before)} }}}}'
        '{% if ns.system %}{{ ns.system + "\\n\\n" }}{% set ns.system = "" %}{% endif %}'
        f"{{{{ ({content}) + {_quoted(after)} }}}}"
        f"{{% else %}}{{{{ {_quoted(answer_before)} + ({content}) + {_quoted(answer_after)} }}}}{{% endif %}}"
        "{% endfor %}",
        reply,
    )


def _bailing(end: str, reply: str, *, begin: str = "") -> str:
    start = f'{{% if messages[0].role != "system" %}}{_output(begin)}{{% endif %}}' if begin else ""
    turn = (
        '{{ "<role>" + ("HUMAN" if message.role == "user" else message.role | upper) + "</role>" + message.content + '
        f"{_quoted(end)} }}}}"
    )
    return _prompted(f"{start}{{% for message in messages %}}{turn}{{% endfor %}}", reply)


_CHATML = _any_role("<|im_start|>", "\n§<|im_end|>\n", "<|im_start|>assistant\n")
_EXAONE_3 = _turns("[|system|]¶[|endofturn|]\n", "[|user|]¶\n", "[|assistant|]¶[|endofturn|]\n", "[|assistant|]")
_GRANITE = _any_role(
    "<|start_of_role|>", "<|end_of_role|>§<|end_of_text|>\n", "<|start_of_role|>assistant<|end_of_role|>"
)

#: A template for each name.
NAMED_TEMPLATES: Mapping[str, str] = {
    "chatml": _CHATML,
    "llama2": _llama2(system=False),
    "llama2-sys": _llama2(),
    "llama2-sys-bos": _llama2(start_token=True),
    "llama2-sys-strip": _llama2(trim=True),
    "llama3": _any_role(
        "<|start_header_id|>",
        "<|end_header_id|>\n\n§<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        trimmed=True,
    ),
    "llama4": _any_role(
        "<|header_start|>", "<|header_end|>\n\n§<|eot|>", "<|header_start|>assistant<|header_end|>\n\n", trimmed=True
    ),
    "mistral-v1": _mistral(leading=" ", trailing=" "),
    "mistral-v3": _mistral(leading="", trailing=" ", trim=True),
    "mistral-v3-tekken": _mistral(leading="", trailing=""),
    "mistral-v7": _turns("[SYSTEM_PROMPT] §[/SYSTEM_PROMPT]", "[INST] §[/INST]", " §</s>", ""),
    "mistral-v7-tekken": _turns("[SYSTEM_PROMPT]§[/SYSTEM_PROMPT]", "[INST]§[/INST]", "§</s>", ""),
    "phi3": _any_role("<|", "|>\n§<|end|>\n", "<|assistant|>\n"),
    "phi4": _any_role("<|im_start|>", "<|im_sep|>§<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    "falcon3": _any_role("<|", "|>\n§\n", "<|assistant|>\n"),
    "zephyr": _any_role("<|", "|>\n§<|endoftext|>\n", "<|assistant|>\n"),
    "monarch": _prompted(
        '{% for message in messages %}{{ ("" if loop.first else "<s>") + message.role + "\\n" + message.content + '
        '"</s>\\n" }}{% endfor %}',
        "<s>assistant\n",
    ),
    "gemma": _merged_system(
        "<start_of_turn>user\n§<end_of_turn>\n",
        "<start_of_turn>model\n§<end_of_turn>\n",
        "<start_of_turn>model\n",
        trim=True,
    ),
    "orion": _merged_system("Human: §\n\nAssistant: </s>", "§</s>", "", trim=False),
    "openchat": _turns(
        "§<|end_of_turn|>",
        "GPT4 Correct User: §<|end_of_turn|>",
        "GPT4 Correct Assistant: §<|end_of_turn|>",
        "GPT4 Correct Assistant:",
    ),
    "vicuna": _turns("§\n\n", "USER: §\n", "ASSISTANT: §</s>\n", "ASSISTANT:"),
    "vicuna-orca": _turns("SYSTEM: §\n", "USER: §\n", "ASSISTANT: §</s>\n", "ASSISTANT:"),
    "deepseek": _turns("§", "### Instruction:\n§\n", "### Response:\n§\n<|EOT|>\n", "### Response:\n"),
    "deepseek2": _turns("§\n\n", "User: §\n\n", "Assistant: §<｜end▁of▁sentence｜>", "Assistant:"),
    "deepseek3": _turns("§\n\n", "<｜User｜>§", "<｜Assistant｜>§<｜end▁of▁sentence｜>", "<｜Assistant｜>"),
    "deepseek-ocr": _turns("§", "§", "§", ""),
    "command-r": _turns(
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>¶<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>¶<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>¶<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "chatglm3": _any_role("<|", "|>\n §", "<|assistant|>", begin="[gMASK]sop"),
    "chatglm4": _any_role("<|", "|>\n§", "<|assistant|>\n", begin="[gMASK]<sop>"),
    "glmedge": _any_role("<|", "|>\n§", "<|assistant|>"),
    "minicpm": _turns("¶", "<用户>¶<AI>", "¶", ""),
    "exaone3": _EXAONE_3,
    "exaone4": _turns(
        "[|system|]¶[|endofturn|]\n",
        "[|user|]¶\n",
        "[|assistant|]¶[|endofturn|]\n",
        "[|assistant|]",
        tool="[|tool|]¶[|endofturn|]\n",
    ),
    "exaone-moe": _turns(
        "<|system|>\n¶<|endofturn|>\n",
        "<|user|>\n¶<|endofturn|>\n",
        "<|assistant|>\n¶<|endofturn|>\n",
        "<|assistant|>\n",
        tool="<|tool|>\n¶<|endofturn|>\n",
    ),
    "rwkv-world": _turns("System: ¶\n\n", "User: ¶\n\n", "Assistant: ¶\n\n", "Assistant:"),
    "granite": _GRANITE,
    "granite-4.0": _GRANITE,
    "granite-4.1": _GRANITE,
    "gigachat": _turns(
        "§<|message_sep|>",
        "user<|role_sep|>§<|message_sep|>available functions<|role_sep|>[]<|message_sep|>",
        "assistant<|role_sep|>§<|message_sep|>",
        "assistant<|role_sep|>",
        begin="<s>",
    ),
    "megrez": _any_role("<|role_start|>", "<|role_end|>§<|turn_end|>", "<|role_start|>assistant<|role_end|>"),
    "yandex": _turns("", " Пользователь: §\n\n", " Ассистент: §\n\n", " Ассистент:[SEP]"),
    "bailing": _bailing("", "<role>ASSISTANT</role>"),
    "bailing-think": _bailing("", "<role>ASSISTANT</role><think>"),
    "bailing2": _bailing(
        "<|role_end|>", "<role>ASSISTANT</role>", begin="<role>SYSTEM</role>detailed thinking off<|role_end|>"
    ),
    "smolvlm": _turns(
        "§\n\n",
        "User: §<end_of_utterance>\n",
        "Assistant: §<end_of_utterance>\n",
        "Assistant:",
        begin="<|im_start|>",
    ),
    "hunyuan-moe": _turns("<|startoftext|>§<|extra_4|>", "<|startoftext|>§<|extra_0|>", "§<|eos|>", ""),
    "hunyuan-dense": _turns(
        "§<｜hy_place▁holder▁no▁3｜>",
        "<｜hy_User｜>§<｜hy_Assistant｜>",
        "<｜hy_Assistant｜>§<｜hy_place▁holder▁no▁2｜>",
        "",
    ),
    "hunyuan-vl": _turns(
        "§<｜hy_place▁holder▁no▁3｜>",
        "§<｜hy_User｜>",
        "§<｜hy_Assistant｜>",
        "",
        begin="<｜hy_begin▁of▁sentence｜>",
    ),
    "gpt-oss": _turns(
        "<|start|>system<|message|>§<|end|>",
        "<|start|>user<|message|>§<|end|>",
        "<|start|>assistant<|message|>§<|return|>",
        "<|start|>assistant",
    ),
    "kimi-k2": _turns(
        "<|im_system|>system<|im_middle|>§<|im_end|>",
        "<|im_user|>user<|im_middle|>§<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>§<|im_end|>",
        "<|im_assistant|>assistant<|im_middle|>",
        tool="<|im_system|>tool<|im_middle|>§<|im_end|>",
    ),
    "seed_oss": _turns(
        "<seed:bos>system\n§<seed:eos>",
        "<seed:bos>user\n§<seed:eos>",
        "<seed:bos>assistant\n¶<seed:eos>",
        "<seed:bos>assistant\n",
    ),
    "grok-2": _turns(
        "System: ¶<|separator|>\n\n", "Human: ¶<|separator|>\n\n", "Assistant: §<|separator|>\n\n", "Assistant:"
    ),
    "pangu-embedded": (
        '{% if messages[0].role != "system" %}{{ "[unused9]系统：[unused10]" }}{% endif %}'
        + _turns(
            "[unused9]系统：§[unused10]",
            "[unused9]用户：§[unused10]",
            "[unused9]助手：§[unused10]",
            "[unused9]助手：",
            tool="[unused9]工具：§[unused10]",
        )
    ),
    "solar-open": _any_role("<|begin|>", "<|content|>§<|end|>", "<|begin|>assistant"),
}
