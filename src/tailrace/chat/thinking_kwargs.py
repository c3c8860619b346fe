"""Whether and how much a model thinks, in the words of its template.

Templates have many names for it: ``enable_thinking`` (Qwen, GLM, SmolLM3, Nemotron, Hunyuan, ...), ``thinking``
(DeepSeek V3.1 and later, Granite, Kimi), ``reasoning`` (Command A), ``thinking_mode`` (MiniMax M3), ``thinking_budget``
(Seed-OSS), ``reasoning_effort`` (gpt-oss, Hunyuan 3, Solar), ``thinking_effort`` (Kimi K3), ``reasoning_strength``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from tailrace.chat.template import ChatTemplate
from tailrace.errors import InvalidRequest

#: From the least to the most.
_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
#: Those that every template with an effort takes; others only where the template names them.
_COMMON = ("low", "medium", "high")
_EFFORTS = ("reasoning_effort", "reasoning_strength")
_SWITCHES = frozenset({"enable_thinking", "thinking", "reasoning", "thinking_mode", "thinking_budget"})
#: Words of templates for an effort that is none.
_NO_EFFORT = ("none", "no_think", "minimal")


class ThinkingOptions(msgspec.Struct, frozen=True):
    """What a request says of thinking; None is the model's own way."""

    on: bool | None = None
    effort: str | None = None  #: how much, where it isn't off
    budget: int | None = None  #: tokens that the thought shall have


def template_kwargs(template: ChatTemplate, thinking: ThinkingOptions) -> dict[str, Any]:
    """The template's variables that say so."""
    said: dict[str, Any] = {}
    if thinking.on is not None:
        said |= {"enable_thinking": thinking.on, "thinking": thinking.on}
        if "reasoning" in template.variables:
            said["reasoning"] = thinking.on
        if "thinking_mode" in template.variables:
            said["thinking_mode"] = "enabled" if thinking.on else "disabled"
    if thinking.on is False:
        said |= dict.fromkeys(_EFFORTS, effort) if (effort := _no_effort(template)) is not None else {}
        if "thinking_budget" in template.variables:
            said["thinking_budget"] = 0
        return said
    effort = thinking.effort
    if effort is None and thinking.on and "no_think" in template.literals:
        effort = "high"  # Hunyuan 3 doesn't think unless it is told how much.
    if effort is not None:
        said |= dict.fromkeys(_EFFORTS, _level(effort, template.literals))
        if "thinking_effort" in template.variables:
            said["thinking_effort"] = _nearest(effort, template.literals)
    if thinking.budget is not None:
        said["thinking_budget"] = thinking.budget
    return said


def has_thinking_switch(template: ChatTemplate) -> bool:
    """Whether the template makes another prompt where the model shall not think."""
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
    """The effort where templates know it, else the nearest of the common ones."""
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
