"""Prompt lookup: guesses a sequence's next tokens by finding its last ones earlier in the prompt and reply.

Pure bookkeeping over one sequence's tokens: it knows nothing of models, costs or whether a guess is worth checking. It
watches every token, drafted or not, so that how well it guesses is known before a guess has cost anything.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import Acceptance

#: Tokens that must agree for a place to be found.
_GRAM = 3
#: Prompt tokens indexed in one call: half a millisecond. All of a prompt of 100,000 would hold up a step for 25.
_SLICE = 4096
#: Stands between texts: no token, so that nothing is found across it.
_BOUNDARY = -1

Gram = tuple[int, int, int]


class PromptLookup:
    """One sequence's index. ``run`` says how many guesses have been right lately."""

    __slots__ = ("_at", "_index", "_indexed", "_predicted", "_ready", "_text", "run")

    def __init__(self, tokens: Seq[int], prediction: Seq[int] = ()) -> None:
        """``prediction``: tokens that the client expects in the reply; the first guess is that it begins with them."""
        self._text: list[int] = [*prediction, _BOUNDARY, *tokens] if prediction else list(tokens)
        self._predicted = len(prediction)
        self._index: dict[Gram, int] = {}  #: three tokens → the position behind their last occurrence
        self._indexed = 0  #: three tokens of the prompt that begin before this position are in the index
        #: Nothing is left to be prepared: all but the text's last three tokens are in the index, and stay so.
        self._ready = len(self._text) <= _GRAM
        #: Position in the text of the token that comes next if the copying goes on; -1 is nowhere.
        self._at = 0 if prediction else -1
        #: Right guesses in a row; a wrong one leaves a quarter, because a copy with one change mostly goes on.
        self.run = 0

    @property
    def found(self) -> bool:
        """Whether there is a guess."""
        return self._at >= 0

    @property
    def predicted(self) -> bool:
        """Whether the guess comes from the prediction."""
        return 0 <= self._at < self._predicted

    def prepare(self) -> bool:
        """Index some more of the text; True when nothing is left to do. Not before then are there guesses."""
        if self._ready:
            return True
        text, start = self._text, self._indexed
        # The text's last three tokens are left out: they would find themselves.
        end = min(start + _SLICE, len(text) - _GRAM)
        if start < end:
            grams = zip(text[start:end], text[start + 1 : end + 1], text[start + 2 : end + 2], strict=True)
            self._index.update(zip(grams, range(start + _GRAM, end + _GRAM), strict=True))
            self._indexed = end
            if end == len(text) - _GRAM and self._at < 0:
                self._find()
        self._ready = self._indexed >= len(text) - _GRAM
        return self._ready

    def append(self, token: int) -> bool | None:
        """The next token is known. Returns whether it was guessed; None when there was no guess. About 0.4 µs."""
        text = self._text
        if not self._ready:
            text.append(token)
            return None
        if len(text) >= _GRAM:
            self._index[text[-3], text[-2], text[-1]] = len(text)
        at = self._at
        text.append(token)
        if at < 0:
            self._find()
            return None
        self._at = at + 1
        if text[at] == token:
            self.run += 1
            return True
        self.run //= 4
        # Where nothing better is found the place is kept, one token on: one word may have been changed for another.
        self._find()
        return False

    def draft(self, count: int) -> list[int]:
        """The next ``count`` tokens as guessed; fewer at the end of a prediction."""
        if self._at < 0:
            return []
        drafted = self._text[self._at : self._at + count]
        if 0 < len(drafted) < count:
            # The place runs into the reply's own end: what repeats itself is guessed to go on repeating itself.
            drafted = (drafted * (count // len(drafted) + 1))[:count]
        if _BOUNDARY in drafted:
            del drafted[drafted.index(_BOUNDARY) :]
        return drafted

    def _find(self) -> None:
        text = self._text
        if len(text) >= _GRAM:
            self._at = self._index.get((text[-3], text[-2], text[-1]), self._at)


class LookupDrafter:
    """Prompt lookup for every running sequence. See ``Drafter``."""

    watches: bool = True
    #: The starter model's copies and other replies, together.
    belief: tuple[float, ...] = (0.15, 0.6, 0.8, 0.8, 0.85, 0.88, 0.9, 0.95, 0.98, 0.99)

    def __init__(self) -> None:
        self._lookups: dict[int, PromptLookup] = {}

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        self._lookups[sequence.id] = PromptLookup(sequence.tokens, sequence.prediction)

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``. A long prompt is indexed over several steps, while it is read."""
        lookup = self._lookups[sequence.id]
        return lookup.run if lookup.prepare() and lookup.found else None

    def draft(self, wanted: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        for sequence, length in wanted:
            lookup = self._lookups[sequence.id]
            sequence.draft = lookup.draft(length)
            sequence.draft_from_prediction = lookup.predicted

    def seconds(self, drafting: int, length: int) -> float:
        """See ``Drafter``: microseconds."""
        return 0.0

    def learn(self, sequence: Sequence, chosen: list[int], acceptance: Acceptance) -> None:
        """See ``Drafter``."""
        lookup = self._lookups[sequence.id]
        for token in chosen:
            run = lookup.run
            hit = lookup.append(token)
            if hit is not None:
                acceptance.observe(run, hit)

    def end(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        del self._lookups[sequence.id]
