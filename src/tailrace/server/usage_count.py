"""The tokens of one request, counted as its prompts are computed and its replies end. It charges and logs nothing."""

from __future__ import annotations

from tailrace.server.choice import Choice
from tailrace.server.events import Usage


class UsageCount:
    """See the module. A prompt counts once for all its replies."""

    __slots__ = (
        "_accepted",
        "_has_prediction",
        "_reasoning",
        "_rejected",
        "cached",
        "completion",
        "computed_prompt",
        "longest",
        "prompt",
    )

    def __init__(self, *, has_prediction: bool) -> None:
        """``has_prediction``: the request has one, so its usage has the draft tokens of it."""
        self.prompt = 0  #: tokens of all prompts
        self.computed_prompt = 0  #: of them, those of prompts that were computed
        self.cached = 0  #: of these, those that the prefix cache had
        self.completion = 0  #: tokens of the replies that have ended
        self.longest = 0  #: tokens of the longest of these
        self._has_prediction = has_prediction
        self._reasoning = 0
        self._accepted = 0  #: of the prediction
        self._rejected = 0

    def add_computed(self, prompt: int, cached: int) -> None:
        """A prompt is computed."""
        self.computed_prompt += prompt
        self.cached += cached

    def add_reply(self, choice: Choice, tokens: int) -> None:
        """A reply of so many tokens has ended, whatever the reason."""
        self.longest = max(self.longest, tokens)
        self.completion += tokens
        self._reasoning += choice.reasoning_tokens
        self._accepted += choice.accepted_draft_tokens
        self._rejected += choice.rejected_draft_tokens

    @property
    def usage(self) -> Usage:
        """For the client: with all prompts, and the replies that have ended."""
        return Usage(
            self.prompt,
            self.completion,
            self.cached,
            self._reasoning,
            self._accepted if self._has_prediction else None,
            self._rejected if self._has_prediction else None,
        )

    @property
    def computed(self) -> Usage:
        """For the metrics: prompts that were never computed don't count."""
        return Usage(self.computed_prompt, self.completion, self.cached)
