"""Context shift: where a reply's context is full, the oldest tokens are dropped and the reply continues.

The engine ends a reply where its context is full. Then the prompt's first tokens and the newer half of the rest become
the prompt of the same reply's next round, as Ollama does it with a cache that can't be shifted. A grammar's state
is lost between rounds, so a reply with a grammar ends there.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.errors import GenerationFailed, RequestError
from tailrace.generation_params import GenerationParams, seeded
from tailrace.protocol import Accepted, Finished, Refused, TokenLogprobs
from tailrace.server.choice import Choice, ChoiceOwner


class ContextShift(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one reply's context shift. The prompt is given as tokens."""

    context: int  #: tokens of the whole context
    keep: int  #: tokens at the prompt's start that stay
    limit: int  #: max tokens of the reply, over all rounds
    shifts: bool  #: False: the reply ends with ``length`` where the context is full


def round_params(params: GenerationParams, number: int, max_tokens: int) -> GenerationParams:
    """The parameters of round ``number``, from 1 on. Each round has a seed of its own: an equal seed would often repeat
    the text. It has neither grammar nor prediction: both are for a reply from its beginning.
    """
    return msgspec.structs.replace(
        seeded(params, number),
        max_tokens=max_tokens,
        min_tokens=0,
        logprobs_after_sampling=False,
        grammar=None,
        prediction=None,
        suffix=None,
    )


class ShiftOwner(ChoiceOwner, Protocol):
    """What a choice with a context shift needs of the request that owns it."""

    def resume(self, choice: ShiftedChoice, prompt: list[int], max_tokens: int) -> None:
        """Submit the choice's next round. Raises RequestError when there is no engine."""
        ...


class ShiftedChoice(Choice):
    """A choice whose reply may take several rounds. ``tokens`` are the prompt's and the reply's."""

    __slots__ = ("_earlier_tokens", "_shift", "_shift_owner", "rounds", "tokens")

    def __init__(
        self,
        owner: ShiftOwner,
        index: int,
        vocabulary: PieceTable,
        pipeline: ReplyPipeline,
        shift: ContextShift,
        prompt: list[int],
        *,
        max_tool_calls: int,
        inline_reasoning: bool,
    ) -> None:
        super().__init__(
            owner, index, vocabulary, pipeline, max_tool_calls=max_tool_calls, inline_reasoning=inline_reasoning
        )
        self._shift_owner = owner
        self._shift = shift
        self._earlier_tokens = 0  #: the reply's tokens in the rounds before
        self.rounds = 0  #: rounds that have ended
        self.tokens = list(prompt)

    def let_go(self) -> None:
        """See ``Choice``."""
        super().let_go()
        del self._shift_owner  # No round begins after the end.

    def on_answer(self, answer: Accepted | Refused) -> None:
        """See ``GenerationCallbacks``. Only the first round's prompt is counted."""
        if not self.rounds:
            super().on_answer(answer)
        elif isinstance(answer, Refused):
            self.on_failed(GenerationFailed(f"The reply can't be continued: {answer.message}."))

    def on_prefilled(self, cached_tokens: int, prompt_seconds: float) -> None:
        """See ``GenerationCallbacks``."""
        if not self.rounds:
            super().on_prefilled(cached_tokens, prompt_seconds)

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """See ``GenerationCallbacks``."""
        self.tokens.append(token)
        super().on_token(token, logprobs)

    def on_finished(self, finished: Finished) -> None:
        """See ``GenerationCallbacks``: the context is full, or the reply is over."""
        completed = self._earlier_tokens + finished.completion_tokens
        left = self._shift.limit - completed
        if finished.reason != "length" or left <= 0 or not self._shift.shifts:
            super().on_finished(Finished(finished.id, finished.reason, completed))
            return
        self._earlier_tokens = completed
        self.rounds += 1
        try:
            self._shift_owner.resume(self, self._shifted(), left)
        except RequestError as error:
            self.on_failed(error)

    def _shifted(self) -> list[int]:
        """The next round's prompt: the tokens to keep and the newest others, so that half of the rest is free."""
        shift = self._shift
        kept = min(shift.keep, shift.context - 1)
        free = max((shift.context - kept) // 2, 1)
        newest = shift.context - kept - free
        return [*self.tokens[:kept], *(self.tokens[-newest:] if newest else ())]
