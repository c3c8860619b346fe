"""Where special tokens stand in a text, in one pass over it.

llama.cpp looks for one special token after the other, the longest first, in what the ones before have left. With many
in a text that takes quadratic time. Here every place where one can stand is found at once. The places are then given
out in the same order, so the result is the same.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from typing import NamedTuple

from tailrace.prompt_text import Span

#: What ``isspace`` is true for in C: it is stripped beside tokens that want it so.
_SPACES = frozenset(" \t\n\v\f\r")

#: A text's parts in order: ids of special tokens, and the stretches between them.
Pieces = list[int | str]


class SpecialToken(NamedTuple):
    """A token that is recognised by its text before the rest is tokenised."""

    id: int
    text: str  #: as it stands in a prompt
    control: bool = True  #: recognised only where special tokens are; others are always
    lstrip: bool = False  #: whether it takes the white space before it
    rstrip: bool = False  #: whether it takes the white space behind it


class SpecialTokens:
    """A vocabulary's special tokens."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        """Of equal length, the first of ``tokens`` goes first; of equal text, the first is the one that counts."""
        ordered = sorted((token for token in tokens if token.text), key=lambda token: -len(token.text.encode()))
        self._all = _Table(ordered)
        self._always = _Table([token for token in ordered if not token.control])

    def split(self, text: str, *, special: bool = True, literal_spans: tuple[Span, ...] = ()) -> Pieces:
        """The text's parts. ``special``: control tokens are recognised, except within ``literal_spans``."""
        table = self._all if special else self._always
        return table.split(text, literal_spans) if text else []

    def count(self, text: str) -> int:
        """At how many places of the text a special token may stand."""
        return self._all.count(text)


class _Table:
    """Some special tokens by rank: a token's rank is its place in the order in which they are looked for."""

    def __init__(self, ordered: list[SpecialToken]) -> None:
        self._tokens = list({token.text: token for token in reversed(ordered)}.values())[::-1]
        self._ranks = {token.text: rank for rank, token in enumerate(self._tokens)}
        #: For each rank that of the longest other token which the token's text begins with; -1 where none does.
        self._shorter = [self._begins(token.text) for token in self._tokens]
        self._pattern = re.compile(_pattern_of(self._ranks)) if self._ranks else None

    def _begins(self, text: str) -> int:
        return next((rank for end in range(len(text) - 1, 0, -1) if (rank := self._ranks.get(text[:end], -1)) >= 0), -1)

    def split(self, text: str, literal_spans: tuple[Span, ...]) -> Pieces:
        """See ``SpecialTokens``."""
        found = self._candidates(text)
        if not found:
            return [text]
        taken = self._give_out(text, literal_spans, found)
        pieces: Pieces = []
        end = 0
        for start, stop, token in sorted(taken):
            if start > end:
                pieces.append(text[end:start])
            if token >= 0:
                pieces.append(token)
            end = stop
        if end < len(text):
            pieces.append(text[end:])
        return pieces

    def count(self, text: str) -> int:
        """See ``SpecialTokens``."""
        return len(self._pattern.findall(text)) if self._pattern is not None else 0

    def _candidates(self, text: str) -> dict[int, list[int]]:
        """For each rank the places, rising, where that token is the longest that can stand there."""
        found: dict[int, list[int]] = {}
        if self._pattern is None:
            return found
        ranks = self._ranks
        for match in self._pattern.finditer(text):
            start = match.start()
            rank = ranks[text[start : match.end(match.lastindex or 0)]]
            if rank in found:
                found[rank].append(start)
            else:
                found[rank] = [start]
        return found

    def _give_out(
        self, text: str, literal_spans: tuple[Span, ...], found: dict[int, list[int]]
    ) -> list[tuple[int, int, int]]:
        """Start, end and id of what stands where; the id is -1 for white space that is stripped."""
        used = bytearray(len(text))
        shut = bytearray(used)  #: where no control token can stand
        for start, stop in literal_spans:
            shut[start:stop] = b"\1" * (stop - start)
        taken: list[tuple[int, int, int]] = []
        ranks = list(found)
        heapq.heapify(ranks)
        while ranks:
            rank = heapq.heappop(ranks)
            token = self._tokens[rank]
            length = len(token.text)
            ones = b"\1" * length
            mask = shut if token.control else used
            shorter = self._shorter[rank]
            left: list[int] = []
            for start in sorted(found.pop(rank)):
                stop = start + length
                if mask.find(1, start, stop) >= 0:
                    if shorter >= 0 and not used[start]:
                        left.append(start)
                    continue
                taken.append((start, stop, token.id))
                used[start:stop] = shut[start:stop] = ones
                if token.lstrip or token.rstrip:
                    taken += _stripped(text, used, shut, start if token.lstrip else -1, stop if token.rstrip else -1)
            if left:
                # All that wait for a shorter token come from longer ones, which have been looked at before it.
                if shorter not in found:
                    heapq.heappush(ranks, shorter)
                found.setdefault(shorter, []).extend(left)
        return taken


def _stripped(text: str, used: bytearray, shut: bytearray, before: int, behind: int) -> list[tuple[int, int, int]]:
    """Take the white space that ends at ``before`` and that which begins at ``behind``; -1 is nowhere."""
    taken: list[tuple[int, int, int]] = []
    start = before
    while start > 0 and not used[start - 1] and text[start - 1] in _SPACES:
        start -= 1
    stop = behind
    while 0 <= stop < len(text) and not used[stop] and text[stop] in _SPACES:
        stop += 1
    for first, last in ((start, before), (behind, stop)):
        if first < last:
            taken.append((first, last, -1))
            used[first:last] = shut[first:last] = b"\1" * (last - first)
    return taken


def _pattern_of(texts: Iterable[str]) -> str:
    """Finds every place where one of ``texts`` stands, and the longest there. A match is its first character; its group
    is the rest. So places that overlap are found, and what can begin no text is passed over by the regex engine itself.
    """
    by_first: dict[str, list[str]] = {}
    for text in texts:
        by_first.setdefault(text[0], []).append(text[1:])
    return "|".join(f"{re.escape(first)}(?=({_any_of(rests)}))" for first, rests in by_first.items())


def _any_of(texts: list[str]) -> str:
    """Matches the longest of ``texts``. What several begin with is looked at once, however many there are."""
    by_first: dict[str, list[str]] = {}
    for text in texts:
        if text:
            by_first.setdefault(text[0], []).append(text)
    branches: list[str] = []
    for group in by_first.values():
        common = _common(group)
        rest = [text[len(common) :] for text in group]
        branches.append(re.escape(common) + (_any_of(rest) if len(group) > 1 else ""))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _common(texts: list[str]) -> str:
    """The longest beginning of all ``texts``."""
    first, last = min(texts), max(texts)  # What both begin with, all between them do.
    length = 0
    while length < len(first) and first[length] == last[length]:
        length += 1
    return first[:length]
