"""The state of one generation. It has no policy: that is the scheduler's."""

from __future__ import annotations

from tailrace.engine.sampling.logits_ops.arrays import Mask
from tailrace.engine.sampling.sampler import Sampler
from tailrace.engine.sampling.token_facts import SamplingVocabulary
from tailrace.engine.structured.constraint import Constraint
from tailrace.protocol import Submit

#: The slot of a waiting sequence.
NO_SLOT = -1
#: The length of a sequence that is never reached.
NO_CHECKPOINT = 2**31 - 1


class Sequence:
    """A prompt and the reply so far.

    ``tokens`` is prompt and reply together; the first ``computed`` of them are in the KV cache. While
    ``computed < len(tokens) - 1`` the sequence is in prefill; then each step decodes its last token.
    """

    __slots__ = (
        "admitted_at",
        "awaits_mask",
        "cached_tokens",
        "caller",
        "checkpoints_at",
        "computed",
        "constraint",
        "draft",
        "draft_from_prediction",
        "generated",
        "id",
        "ignore_eos",
        "jump_forward",
        "logprobs",
        "logprobs_after_sampling",
        "max_length",
        "min_tokens",
        "min_tokens_mask",
        "next_checkpoint",
        "prediction",
        "priority",
        "prompt_length",
        "report_progress",
        "resumed_at_step",
        "reuse_prefix",
        "sampler",
        "slot",
        "stop_tokens",
        "tokens",
    )

    def __init__(
        self,
        submit: Submit,
        tokens: list[int],
        context: int,
        end_tokens: frozenset[int],
        prediction: list[int] | None = None,
        vocabulary: SamplingVocabulary | None = None,
    ) -> None:
        """``context``: tokens of prompt and reply together, at most. ``end_tokens``: the model's own. ``prediction``:
        tokens that the client expects in the reply. ``vocabulary``: for samplers that need to know tokens' text.
        """
        params = submit.params
        self.id = submit.id
        #: Whose request it is: the scheduler is fair between callers.
        self.caller = submit.caller
        self.tokens = tokens
        self.prompt_length = len(tokens)
        #: Length of ``tokens`` at which the generation ends with reason length. It reserves nothing.
        self.max_length = min(context, self.prompt_length + (params.max_tokens or context))
        self.sampler = Sampler(params.sampling, tokens, vocabulary)
        self.logprobs = params.logprobs
        self.logprobs_after_sampling = params.logprobs_after_sampling
        self.priority = params.priority
        self.ignore_eos = params.ignore_eos
        #: Until the reply has this number of tokens, only those in ``min_tokens_mask`` are sampled: no end token.
        self.min_tokens = params.min_tokens
        self.min_tokens_mask: Mask | None = None
        #: Whether its prompt may be taken from the prefix cache.
        self.reuse_prefix = params.reuse_prefix
        # A grammar for the whole reply decides where it may end, and only an end token can end it.
        end_tokens_optional = params.grammar is None or params.grammar.triggers is not None
        ends = frozenset() if params.ignore_eos and end_tokens_optional else end_tokens
        self.stop_tokens = ends.union(params.stop_tokens)
        #: Tokens that are in the KV cache: the first ones of ``tokens``.
        self.computed = 0
        #: Draft tokens, which the next step computes together with the last token. They aren't part of ``tokens``.
        self.draft: list[int] = []
        #: Whether the draft comes from ``prediction``.
        self.draft_from_prediction = False
        #: Restricts the next tokens; None: any token may follow.
        self.constraint: Constraint | None = None
        #: Whether its next mask is still being computed: it sits out, and its last token is computed afterwards.
        self.awaits_mask = False
        #: How many jump-forward tokens there are: tokens at the end of ``tokens``, behind the one sampled last, that
        #: were appended because the grammar allows no others. The next step computes them together with that one.
        self.jump_forward = 0
        #: Tokens that the client expects in the reply: a source of drafts.
        self.prediction = prediction or []
        #: Tokens of the reply, the end token included.
        self.generated = 0
        #: Its slot in the KV cache while it runs.
        self.slot = NO_SLOT
        #: Prompt tokens that the prefix cache had when it was first admitted; None before.
        self.cached_tokens: int | None = None
        #: Lengths at which checkpoints are to be taken, falling, and the next one of them.
        self.checkpoints_at: list[int] = []
        self.next_checkpoint = NO_CHECKPOINT
        #: The scheduler's step in which it last started again after a pause; None: it was never paused.
        self.resumed_at_step: int | None = None
        #: When it was first admitted, in seconds of the monotonic clock; None before.
        self.admitted_at: float | None = None
        #: Whether the progress of its prompt is reported.
        self.report_progress = submit.progress

    def pass_checkpoint(self, interval: int) -> None:
        """Go on to the next checkpoint that isn't computed yet; behind the planned ones there is one every ``interval``
        tokens.
        """
        while self.checkpoints_at and self.checkpoints_at[-1] <= self.computed:
            self.checkpoints_at.pop()
        self.next_checkpoint = self.checkpoints_at[-1] if self.checkpoints_at else len(self.tokens) + interval

    @property
    def pending(self) -> int:
        """Tokens that aren't in the KV cache yet; 1 means decode."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether only the last step's tokens, and the draft, are left to compute."""
        return self.pending == 1 + self.jump_forward

    @property
    def step_tokens(self) -> int:
        """Tokens that a step computes of a decoding sequence."""
        return 1 + self.jump_forward + len(self.draft)
