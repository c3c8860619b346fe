"""Reports how much of each prompt is computed, for the requests that asked for it."""

from __future__ import annotations

import time

from tailrace.engine.sequence import Sequence
from tailrace.protocol import Progress


class PromptProgress:
    """The sequences whose prompts are reported until they are computed."""

    def __init__(self) -> None:
        self.reported: set[int] = set()  #: their ids

    def begin(self, sequences: list[Sequence]) -> list[Progress]:
        """The first reports of sequences that were just admitted: what the prefix cache had of their prompts."""
        reported = [sequence for sequence in sequences if sequence.report_progress]
        self.reported.update(sequence.id for sequence in reported)
        return [_progress(sequence, sequence.computed, 0.0) for sequence in reported]

    def after(self, scheduled: list[tuple[Sequence, int]]) -> list[Progress]:
        """The reports after a step that computed so many tokens of each sequence."""
        now = time.monotonic()
        reports: list[Progress] = []
        for sequence, count in scheduled:
            if sequence.id in self.reported:
                seconds = 0.0 if sequence.admitted_at is None else now - sequence.admitted_at
                reports.append(_progress(sequence, sequence.computed + count, seconds))
                if reports[-1].processed >= sequence.prompt_length:
                    self.reported.discard(sequence.id)
        return reports

    def end(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self.reported.discard(sequence.id)


def _progress(sequence: Sequence, computed: int, seconds: float) -> Progress:
    """The report of a sequence that has computed so many tokens, ``seconds`` after its admission."""
    processed = min(computed, sequence.prompt_length)
    return Progress(sequence.id, sequence.prompt_length, sequence.cached_tokens or 0, processed, seconds)
