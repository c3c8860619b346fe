"""The request for a generation, as dialects make it: prompts, the engine's parameters, and how replies are read."""

from __future__ import annotations

import msgspec

from tailrace.chat.tools import Function
from tailrace.errors import EngineUnavailable, InvalidRequest, RequestError
from tailrace.generation_params import GenerationParams
from tailrace.prompt_text import PromptText
from tailrace.protocol import Refused
from tailrace.server.context_shift import ContextShift
from tailrace.server.engine_query import too_long
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


def refusal_error(refused: Refused, request: GenerationRequest) -> RequestError:
    """The error for an engine's refusal of the request; it names the dialect's field."""
    param = request.prompt_param if refused.field == "prompt" else refused.field
    if refused.code == "context_length_exceeded":
        return too_long(refused, param)
    if refused.code == "invalid_grammar":
        grammar = request.grammar_param
        return InvalidRequest(f"'{grammar}' can't be used as a grammar: {refused.message}", param=grammar)
    if refused.code == "unsupported":
        return InvalidRequest(f"This request can't be served: {refused.message}.", param=request.prompt_param)
    if refused.code == "unavailable":
        return EngineUnavailable(f"The engine can't take this request now: {refused.message}. Try again.")
    return InvalidRequest(f"Invalid value for '{param}': {refused.message}", param=param)
