"""The request for a generation, as dialects make it: prompts, the engine's parameters, and how replies are read."""

from __future__ import annotations

import msgspec

from tailrace.chat.tools import Function
from tailrace.prompt_text import PromptText
from tailrace.protocol import GenerationParams
from tailrace.server.context_shift import ContextShift
from tailrace.server.tracked_choice import TrackingOptions


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``choices`` replies to each of ``prompts``, in that order."""

    prompts: list[PromptText | list[int]]
    prompt_param: str  #: the field to name when the prompt is at fault
    choices: int = 1
    params: GenerationParams = GenerationParams()
    stops: tuple[str, ...] = ()
    keep_stop: bool = False  #: the stop string that ends a reply is part of it
    grammar_param: str = "grammar"  #: the field to name when the grammar is at fault
    chat: bool = False  #: whether reasoning and tool calls are separated from text
    tools: tuple[Function, ...] = ()  #: what may be called
    max_tool_calls: int = 2**31  #: the reply ends after so many
    inline_reasoning: bool = False  #: reasoning comes as text between <think> tags
    tracking: TrackingOptions | None = None  #: the token and time data that the client wants
    prompt_text: PromptText | None = None  #: the only prompt's text for the parser, where it is given as tokens
    context_shift: ContextShift | None = None  #: the context shift of the only choice; its prompt is given as tokens


def seeded(params: GenerationParams, number: int) -> GenerationParams:
    """The parameters with the seed of choice, or round, ``number``: equal seeds would give equal replies."""
    sampling = params.sampling
    if sampling.seed is None or not number:
        return params
    return msgspec.structs.replace(
        params, sampling=msgspec.structs.replace(sampling, seed=(sampling.seed + number) % 2**64)
    )
