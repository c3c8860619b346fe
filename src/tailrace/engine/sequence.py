"""The state of one generation. It holds state only: policy is the scheduler's."""

from __future__ import annotations

from tailrace.engine.sampling.logits_ops.arrays import Mask
from tailrace.engine.sampling.sampler import Sampler
from tailrace.engine.sampling.sampling_vocabulary import SamplingVocabulary
from tailrace.engine.structured.constraint import Constraint
from tailrace.protocol import Submit

#: The slot of a sequence that waits.
NO_SLOT = -1


class Sequence:
    """A prompt and what has been generated after it.

    ``tokens`` is prompt and reply together; the first ``computed`` of them are in the KV cache. While
    ``computed < len(tokens) - 1`` the sequence is in prefill; afterwards each step decodes its last token.
    """

    __slots__ = (
        "admitted_at",
        "cached_tokens",
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
        "prediction",
        "priority",
        "prompt_length",
        "report_progress",
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
        params = submit.params
        self.id = submit.id
        self.tokens = tokens
        self.prompt_length = len(tokens)
        #: Length of ``tokens`` at which the generation ends with reason length. It reserves nothing.
        self.max_length = min(context, self.prompt_length + (params.max_tokens or context))
        self.sampler = Sampler(params.sampling, tokens, vocabulary)
        self.logprobs = params.logprobs
        self.logprobs_after_sampling = params.logprobs_after_sampling
        self.priority = params.priority
        self.ignore_eos = params.ignore_eos
        #: Until so many tokens are chosen, ``unending`` says which may be: all but those that end the reply.
        self.min_tokens = params.min_tokens
        self.min_tokens_mask: Mask | None = None
        #: Whether what was computed of its tokens for others may be used.
        self.reuse_prefix = params.reuse_prefix
        # A grammar says where a reply may end, and can only say it with an end token.
        free = params.grammar is None or params.grammar.watch is not None
        ends = frozenset() if params.ignore_eos and free else end_tokens
        self.stop_tokens = ends.union(params.stop_tokens)
        self.computed = 0
        #: Guesses of the next tokens, to be computed together with the last one. They are no part of ``tokens``.
        self.draft: list[int] = []
        #: Whether the draft comes from ``prediction``.
        self.draft_from_prediction = False
        #: What the reply may still say; None: anything.
        self.constraint: Constraint | None = None
        #: How many tokens at the end of ``tokens``, behind the one chosen last, were appended because the grammar
        #: allows nothing else. They are computed together with it.
        self.jump_forward = 0
        #: Tokens that the client expects in the reply: where guesses may come from.
        self.prediction = prediction or []
        self.generated = 0
        self.slot = NO_SLOT
        #: Prompt tokens found ready in the KV cache when first admitted; None before.
        self.cached_tokens: int | None = None
        #: When it was first admitted, in seconds of the monotonic clock; None before.
        self.admitted_at: float | None = None
        #: Whether the client wants to know how far its prompt has been computed.
        self.report_progress = submit.progress

    @property
    def pending(self) -> int:
        """Tokens that are known but not yet in the KV cache; 1 means decode."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether all that is to compute is what the last step brought, and the draft."""
        return self.pending == 1 + self.jump_forward

    @property
    def step_tokens(self) -> int:
        """Tokens that a step computes for it when it is decoding."""
        return 1 + self.jump_forward + len(self.draft)
