"""The request fields that switch thinking, in all dialects, and their common meaning."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tailrace.chat.thinking_kwargs import ThinkingOptions

#: Max tokens of a thought: 0 is no thought, -1 no limit.
Budget = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


class ThinkingSwitch(msgspec.Struct):
    """``thinking`` as Anthropic, DeepSeek, Z.ai and Moonshot have it."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Budget | None = None


class ReasoningSwitch(msgspec.Struct):
    """``reasoning`` as OpenAI's responses and OpenRouter have it."""

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: Budget | None = None
    exclude: bool | None = None
    summary: str | None = None
    generate_summary: str | None = None


def merge_thinking(
    *,
    enable: bool | None = None,
    thinking: ThinkingSwitch | bool | None = None,
    reasoning: ReasoningSwitch | None = None,
    effort: str | None = None,
    budget: int | None = None,
) -> ThinkingOptions:
    """The common meaning of the switches. The first switch that is set decides whether the model thinks, in this
    order: ``enable``, ``thinking``, ``reasoning.enabled``, a budget, an effort. An effort beside a switch that is
    off has no effect.
    """
    switch = thinking if isinstance(thinking, ThinkingSwitch) else ThinkingSwitch()
    reasoning = reasoning or ReasoningSwitch()
    effort = (effort if effort is not None else reasoning.effort) or None
    effort = effort.lower() if effort is not None else None
    budgets = (budget, switch.budget_tokens, reasoning.max_tokens)
    budget = next((value for value in budgets if value is not None and value >= 0), None)
    decided = (
        enable,
        thinking if isinstance(thinking, bool) else None,
        None if switch.type is None else switch.type != "disabled",
        reasoning.enabled,
        None if budget is None else budget > 0,
        None if effort is None else effort != "none",
    )
    on = next((value for value in decided if value is not None), None)
    return ThinkingOptions(on=on, effort=None if effort == "none" else effort, budget=budget or None)
