"""One step: the batch that the backend computes of a plan, and the tokens that are sampled from its logits.

It changes the sequences that it is given and nothing else. Sequences that finish or fail are listed in the ``Step``;
the loop removes them.
"""

from __future__ import annotations

import time

from tailrace.engine.backends.base import Logits
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask
from tailrace.engine.sampling.sampler import SamplingError, greedy_tokens, logprobs, logprobs_of
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.protocol import Failed, Finished, Predicted, Started, Step


class StepBatch:
    """The tokens of a plan, with the drafts behind them, as ``Backend.decode`` takes them.

    A batch serves all steps that reuse its plan: their tokens are others, one position further.
    """

    __slots__ = (
        "constrained",
        "n_beyond_one",
        "n_decode_tokens",
        "n_decoding",
        "outputs",
        "positions",
        "sampled",
        "scheduled",
        "slots",
        "token_counts",
        "tokens",
    )

    def __init__(self, scheduled: list[tuple[Sequence, int]]) -> None:
        """``scheduled``: each sequence with its number of tokens. Jump-forward tokens that aren't part of this step
        become part of the prompt: ``jump_forward`` is 0 then.
        """
        self.scheduled = scheduled
        self.token_counts = [count for _, count in scheduled]
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.outputs: list[int] = []  #: batch indices whose logits are needed
        self.sampled: list[Sequence] = []  #: sequences that get their next tokens from ``outputs``, in the same order
        self.constrained: list[Sequence] = []  #: the sampled sequences with constraints
        self.n_decode_tokens = 0  #: tokens of decoding sequences, which are in front of the prompts'
        self.n_decoding = 0  #: decoding sequences
        self.n_beyond_one = 0  #: their draft and jump-forward tokens: what they have beyond one token each
        for sequence, count in scheduled:
            self._add(sequence, count)

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of prompts."""
        return len(self.tokens) - self.n_decode_tokens

    def _add(self, sequence: Sequence, count: int) -> None:
        tokens, start = self.tokens, sequence.computed
        in_front = sequence.decoding and self.n_decode_tokens == len(tokens)
        # Where a slot's content was lost, the plan has more tokens than the sequence has left.
        count = min(count, sequence.pending + len(sequence.draft))
        self.n_decoding += sequence.decoding
        tokens += sequence.tokens[start : start + count]
        if count >= sequence.pending:
            self.outputs.append(len(tokens) - 1)
            self.sampled.append(sequence)
            if sequence.constraint is not None:
                self.constrained.append(sequence)
            if sequence.draft:
                self.outputs += range(len(tokens), len(tokens) + len(sequence.draft))
                tokens += sequence.draft
                self.n_beyond_one += len(sequence.draft)
            self.n_beyond_one += sequence.jump_forward
        else:
            sequence.jump_forward = 0
        self.positions += range(start, start + count)
        self.slots += [sequence.slot] * count
        if in_front:
            self.n_decode_tokens = len(tokens)


def sample_step(sequences: list[Sequence], logits: Logits) -> Step:
    """Sample the next tokens of every sequence and append them to it.

    ``logits``: a row for each sequence, in order, followed by a row for each of its draft tokens. A draft token is
    accepted when it is the token that is sampled anyway. The first one that isn't is replaced by the sampled token, and
    the rows behind it are skipped. A constraint masks tokens, and may append jump-forward tokens. A sequence that
    awaits its mask gets no token.
    """
    step = Step([], [], [], [], {})
    # One call for the whole step: it is as fast as memory can be read.
    greedy = all(sequence.sampler.greedy for sequence in sequences)
    greedy_choice = greedy_tokens(logits) if greedy else None
    row = 0
    for sequence in sequences:
        next_row = row + 1 + len(sequence.draft)
        length = len(sequence.tokens)
        sequence.jump_forward = 0
        if sequence.awaits_mask or _ended_late(step, sequence):
            row = next_row
            continue
        try:
            for draft in (*sequence.draft, None):
                if greedy_choice is not None and sequence.logprobs is None and not _is_masked(sequence):
                    token = greedy_choice[row]
                else:
                    token = _sample(step, sequence, logits[row])
                row += 1
                if not _append(step, sequence, token):
                    break
                if sequence.constraint is not None and not _advance_grammar(step, sequence, sequence.constraint, token):
                    break
                if token != draft:
                    break
        except SamplingError as error:
            step.failed.append(Failed(sequence.id, str(error)))
        except GrammarError as error:
            step.failed.append(Failed(sequence.id, f"its grammar can't be followed any further: {error}", True))
        row = next_row
        if sequence.draft and sequence.draft_from_prediction:
            accepted = common_prefix(sequence.draft, sequence.tokens[length:])
            step.predicted.append(Predicted(sequence.id, accepted, len(sequence.draft) - accepted))
    return step


def _ended_late(step: Step, sequence: Sequence) -> bool:
    """Whether the reply's grammar came to its end while a deferred token was accepted."""
    if sequence.constraint is None or not sequence.constraint.finished:
        return False
    step.finished.append(Finished(sequence.id, "stop", sequence.generated))
    return True


def _is_masked(sequence: Sequence) -> bool:
    if sequence.generated < sequence.min_tokens:
        return True
    constraint = sequence.constraint
    return constraint is not None and (not constraint.unconstrained or constraint.mask() is not None)


def _sample(step: Step, sequence: Sequence, row: LogitsRow) -> int:
    constraint = sequence.constraint
    mask = None if constraint is None else constraint.mask()
    if sequence.generated < sequence.min_tokens:
        mask = _without_end_tokens(sequence, mask)
    if sequence.logprobs is None:
        return sequence.sampler.sample(row, mask)
    drawn = sequence.sampler.distribution(row, mask) if sequence.logprobs_after_sampling else None
    token = sequence.sampler.sample(row, mask)
    if token not in sequence.stop_tokens:
        found = (
            logprobs(row, token, sequence.logprobs) if drawn is None else logprobs_of(*drawn, token, sequence.logprobs)
        )
        step.logprobs[len(step.ids)] = found
    return token


def _without_end_tokens(sequence: Sequence, mask: Mask | None) -> Mask | None:
    """``mask`` without the tokens that end the reply; with them where a grammar allows nothing else."""
    min_tokens_mask = sequence.min_tokens_mask
    if mask is None or min_tokens_mask is None:
        return min_tokens_mask if mask is None else mask
    both: Mask = mask & min_tokens_mask
    return both if both.any() else mask


def _advance_grammar(step: Step, sequence: Sequence, constraint: Constraint, token: int) -> bool:
    """Advance the grammar by ``token`` and append the tokens that it allows only one choice for: the next step computes
    them together. False when the rows behind this one no longer count. A slow grammar advances later.
    """
    if constraint.slow:
        constraint.defer(token)
        return False
    for forced in constraint.accept(token):
        sequence.sampler.accept(forced)
        sequence.jump_forward += 1
        if not _append(step, sequence, forced):
            return False
    if constraint.finished:
        step.finished.append(Finished(sequence.id, "stop", sequence.generated))
        return False
    return not sequence.jump_forward


def _append(step: Step, sequence: Sequence, token: int) -> bool:
    """Add the token to the sequence and the step; False when it was the last."""
    sequence.tokens.append(token)
    if not sequence.generated:
        seconds = 0.0 if sequence.admitted_at is None else time.monotonic() - sequence.admitted_at
        step.started.append(Started(sequence.id, sequence.cached_tokens or 0, seconds))
    sequence.generated += 1
    if token in sequence.stop_tokens:
        step.finished.append(Finished(sequence.id, "stop", sequence.generated))
        return False
    step.ids.append(sequence.id)
    step.tokens.append(token)
    if len(sequence.tokens) >= sequence.max_length:
        step.finished.append(Finished(sequence.id, "length", sequence.generated))
        return False
    return True
