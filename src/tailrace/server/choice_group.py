"""The choices of a request, grouped by prompt: the engine gets each prompt once, with all its choices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.chat.stop_strings import StopAutomaton
from tailrace.generation_params import seeded
from tailrace.prompt_text import PromptText
from tailrace.protocol import Submit
from tailrace.server.choice import Choice
from tailrace.server.context_shift import ShiftedChoice, ShiftOwner
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.served_model import ServedModel
from tailrace.server.tracked_choice import TrackedChoice

#: Characters of a text for each token of it, as a guess until the engine has counted them.
_TOKEN_CHARACTERS = 4
#: Characters or tokens of a request's prompts, each counted for each of its replies, from which a thread makes their
#: parsers.
_LARGE = 1_000_000


class Engines(Protocol):
    """The way to the engines, as far as a group needs it."""

    def submit_copies(self, make: Callable[[int, range], Submit], choices: list[Choice]) -> list[int]:
        """See ``EngineClient``."""
        ...


class ChoiceGroup:
    """The choices of one prompt."""

    def __init__(self, prompt: PromptText | list[int], choices: list[Choice]) -> None:
        self.prompt = prompt
        self.choices = choices

    def submit(self, engine: Engines, request: GenerationRequest, caller: str, *, progress: bool) -> None:
        """Send the prompt for all of them. Raises EngineUnavailable."""
        tracking = request.tracking
        params = request.params
        if tracking is not None and tracking.silent:
            params = msgspec.structs.replace(params, max_tokens=1)

        def make(identity: int, numbers: range) -> Submit:
            return Submit(
                id=identity,
                prompt=self.prompt,
                params=seeded(params, numbers.start),
                copies=len(numbers),
                progress=progress or (tracking is not None and tracking.progress),
                caller=caller,
            )

        for choice, identity in zip(self.choices, engine.submit_copies(make, self.choices), strict=True):
            choice.identity = identity
            choice.accepted = False


def estimated_tokens(prompt: PromptText | str | list[int], context: int) -> int:
    """About how many tokens the prompt has. One that is longer than the context is refused, so it counts no more."""
    if isinstance(prompt, list):
        return min(context, len(prompt))
    text = prompt.text if isinstance(prompt, PromptText) else prompt
    return min(context, len(text) // _TOKEN_CHARACTERS + 1)


async def make_groups(
    owner: ShiftOwner, model: ServedModel, request: GenerationRequest, stops: StopAutomaton | tuple[str, ...]
) -> list[ChoiceGroup]:
    """A group for each prompt of the request. The choices are numbered through all of them."""
    sizes = (len(prompt if isinstance(prompt, list) else prompt.text) for prompt in request.prompts)
    if sum(sizes) * request.choices > _LARGE:
        return await asyncio.to_thread(_make_groups, owner, model, request, stops)
    return _make_groups(owner, model, request, stops)


def _make_groups(
    owner: ShiftOwner, model: ServedModel, request: GenerationRequest, stops: StopAutomaton | tuple[str, ...]
) -> list[ChoiceGroup]:
    functions = {function.name: function for function in request.tools}
    vocabulary = model.vocabulary
    if request.chat:
        vocabulary = model.vocabulary_showing(model.family.markup(functions).markers)
    groups: list[ChoiceGroup] = []
    for prompt in request.prompts:
        text = request.prompt_text if isinstance(prompt, list) else prompt
        choices: list[Choice] = []
        for number in range(request.choices):
            parser = model.family.parser(text, functions) if request.chat and text is not None else None
            pipeline = ReplyPipeline(
                vocabulary, stops, parser, keep_stop=request.keep_stop, min_tokens=request.params.min_tokens
            )
            index = len(groups) * request.choices + number
            choices.append(_choice(owner, request, index, vocabulary, pipeline, prompt))
        groups.append(ChoiceGroup(prompt, choices))
    return groups


def _choice(
    owner: ShiftOwner,
    request: GenerationRequest,
    index: int,
    vocabulary: PieceTable,
    pipeline: ReplyPipeline,
    prompt: PromptText | list[int],
) -> Choice:
    max_tool_calls, inline = request.max_tool_calls, request.inline_reasoning
    if (shift := request.context_shift) is not None:
        assert isinstance(prompt, list), "a context shift counts tokens"
        return ShiftedChoice(
            owner,
            index,
            vocabulary,
            pipeline,
            shift,
            prompt,
            max_tool_calls=max_tool_calls,
            inline_reasoning=inline,
        )
    if (tracking := request.tracking) is None:
        return Choice(owner, index, vocabulary, pipeline, max_tool_calls=max_tool_calls, inline_reasoning=inline)
    return TrackedChoice(
        owner, index, vocabulary, pipeline, tracking, max_tool_calls=max_tool_calls, inline_reasoning=inline
    )
