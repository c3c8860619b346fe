"""The template variables (``chat_template_kwargs``) that turn a model's thinking on or off, or set its effort.

Templates have many names for them: ``enable_thinking`` (Qwen, GLM, SmolLM3, Nemotron, Hunyuan, ...), ``thinking``
(DeepSeek V3.1 and later, Granite, Kimi), ``reasoning`` (Command A), ``thinking_mode`` (MiniMax M3), ``thinking_budget``
(Seed-OSS), ``reasoning_effort`` (gpt-oss, Hunyuan 3, Solar), ``thinking_effort`` (Kimi K3), ``reasoning_strength``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest

#: In rising order.
_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
#: Levels of every template with an effort. The others need to be in the template's literals.
_COMMON = ("low", "medium", "high")
_EFFORTS = ("reasoning_effort", "reasoning_strength")
_SWITCHES = frozenset({"enable_thinking", "thinking", "reasoning", "thinking_mode", "thinking_budget"})
#: Names of templates for no effort.
_NO_EFFORT = ("none", "no_think", "minimal")


class ThinkingOptions(msgspec.Struct, frozen=True):
    """A request's wishes for thinking; None is the model's default."""

    on: bool | None = None
    effort: str | None = None  #: a level of effort, unless thinking is off
    budget: int | None = None  #: tokens for the thought


def template_kwargs(template: ChatTemplate, thinking: ThinkingOptions) -> dict[str, Any]:
    """The template's variables for these options."""
    kwargs: dict[str, Any] = {}
    if thinking.on is not None:
        kwargs |= {"enable_thinking": thinking.on, "thinking": thinking.on}
        if "reasoning" in template.variables:
            kwargs["reasoning"] = thinking.on
        if "thinking_mode" in template.variables:
            kwargs["thinking_mode"] = "enabled" if thinking.on else "disabled"
    if thinking.on is False:
        kwargs |= dict.fromkeys(_EFFORTS, effort) if (effort := _no_effort(template)) is not None else {}
        if "thinking_budget" in template.variables:
            kwargs["thinking_budget"] = 0
        return kwargs
    effort = thinking.effort
    if effort is None and thinking.on and "no_think" in template.literals:
        effort = "high"  # Hunyuan 3 needs a level to think at all.
    if effort is not None:
        kwargs |= dict.fromkeys(_EFFORTS, _level(effort, template.literals))
        if "thinking_effort" in template.variables:
            kwargs["thinking_effort"] = _nearest(effort, template.literals)
    if thinking.budget is not None:
        kwargs["thinking_budget"] = thinking.budget
    return kwargs


def has_thinking_switch(template: ChatTemplate) -> bool:
    """Whether the template renders another prompt where thinking is off."""
    question = [{"role": "user", "content": "Hello."}]
    try:
        off = template.render(question, None, template_kwargs(template, ThinkingOptions(on=False)))
        return off != template.render(question, None, template_kwargs(template, ThinkingOptions(on=True)))
    except InvalidRequest:
        return False


def _no_effort(template: ChatTemplate) -> str | None:
    for word in _NO_EFFORT:
        if word in template.literals:
            return word
    return None if _SWITCHES & template.variables else "low"


def _level(effort: str, named: Collection[str]) -> str:
    """The effort where the template names it, else the nearest common level."""
    if effort in named or effort not in _LEVELS:
        return effort
    if effort == "max" and "xhigh" in named:
        return "xhigh"
    return effort if effort in _COMMON else "low" if effort == "minimal" else "high"


def _nearest(effort: str, named: Collection[str]) -> str:
    """The nearest level that the template names, the higher of two."""
    if effort not in _LEVELS:
        return effort
    place = _LEVELS.index(effort)
    known = [level for level in _LEVELS if level in named] or [effort]
    return min(reversed(known), key=lambda level: abs(_LEVELS.index(level) - place))
