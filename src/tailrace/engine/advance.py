"""From a step's logits to each sequence's next tokens, and the ``Step`` that tells of them.

It changes the sequences it is given and nothing else: who has ended or failed is told in the step, and leaves by the
loop's hand.
"""

from __future__ import annotations

import time

from tailrace.engine.backends.base import Logits
from tailrace.engine.kv_cache.prefix_store import common_prefix
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow, Mask
from tailrace.engine.sampling.sampler import SamplingError, greedy_tokens, logprobs, logprobs_of
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_translation import GrammarError
from tailrace.protocol import Failed, Finished, Predicted, Started, Step


def advance(ready: list[Sequence], logits: Logits) -> Step:
    """Choose tokens for every sequence in ``ready`` and append them to it.

    ``logits`` has one row for each of them, in order; one whose ``draft`` was computed along has a row more for each
    drafted token. A drafted token stays when it is what would have been chosen anyway; the first that isn't is replaced
    by the choice, and the rows after it are passed over. A constraint narrows the choice, and may force more tokens.
    """
    step = Step([], [], [], [], {})
    # One call for the whole step: it is as fast as memory can be read.
    greedy = all(sequence.sampler.greedy for sequence in ready)
    best = greedy_tokens(logits) if greedy else None
    row = 0
    for sequence in ready:
        end = row + 1 + len(sequence.draft)
        known = len(sequence.tokens)
        sequence.jump_forward = 0
        try:
            for draft in (*sequence.draft, None):
                if best is not None and sequence.logprobs is None and not _masked(sequence):
                    token = best[row]
                else:
                    token = _choose(step, sequence, logits[row])
                row += 1
                if not _append(step, sequence, token):
                    break
                if sequence.constraint is not None and not _constrain(step, sequence, sequence.constraint, token):
                    break
                if token != draft:
                    break
        except SamplingError as error:
            step.failed.append(Failed(sequence.id, str(error)))
        except GrammarError as error:
            step.failed.append(Failed(sequence.id, f"its grammar has become too complex: {error}"))
        row = end
        if sequence.draft and sequence.draft_from_prediction:
            right = common_prefix(sequence.draft, sequence.tokens[known:])
            step.predicted.append(Predicted(sequence.id, right, len(sequence.draft) - right))
    return step


def _masked(sequence: Sequence) -> bool:
    if sequence.generated < sequence.min_tokens:
        return True
    constraint = sequence.constraint
    return constraint is not None and (not constraint.free or constraint.mask() is not None)


def _choose(step: Step, sequence: Sequence, row: LogitsRow) -> int:
    constraint = sequence.constraint
    mask = None if constraint is None else constraint.mask()
    if sequence.generated < sequence.min_tokens:
        mask = _unending(sequence, mask)
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


def _unending(sequence: Sequence, mask: Mask | None) -> Mask | None:
    """``mask`` without the tokens that end the reply; with them where a grammar allows nothing else."""
    unending = sequence.min_tokens_mask
    if mask is None or unending is None:
        return unending if mask is None else mask
    both: Mask = mask & unending
    return both if both.any() else mask


def _constrain(step: Step, sequence: Sequence, constraint: Constraint, token: int) -> bool:
    """Take the grammar over ``token`` and append what it leaves no choice about; they are computed together in the next
    step. False when rows that were computed along don't count any more.
    """
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
