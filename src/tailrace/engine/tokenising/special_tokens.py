"""Finds the special tokens of a text in one pass.

llama.cpp searches for one special token after the other, the longest first, in the text that earlier ones have left.
With many in a text that takes quadratic time. Here one pass finds every place where a special token can stand. The
places are then assigned in llama.cpp's order, so the result is the same.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from typing import NamedTuple

from tailrace.prompt_text import Span

#: White space of C's ``isspace``: some tokens strip it beside them.
_SPACES = frozenset(" \t\n\v\f\r")

#: A text's parts in order: ids of special tokens, and the segments between them.
Pieces = list[int | str]


class SpecialToken(NamedTuple):
    """A token that is recognised by its text before the segments are tokenised."""

    id: int
    text: str  #: as it stands in a prompt
    control: bool = True  #: recognised only with ``special``; others always
    lstrip: bool = False  #: whether it strips the white space before it
    rstrip: bool = False  #: whether it strips the white space after it


class SpecialTokens:
    """A vocabulary's special tokens."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        """Among tokens of equal length, the first of ``tokens`` goes first. Among equal texts the first counts."""
        ordered = sorted((token for token in tokens if token.text), key=lambda token: -len(token.text.encode()))
        self._all = _Table(ordered)
        self._always = _Table([token for token in ordered if not token.control])

    def split(self, text: str, *, special: bool = True, literal_spans: tuple[Span, ...] = ()) -> Pieces:
        """The text's parts. ``special``: control tokens are recognised, except within ``literal_spans``."""
        table = self._all if special else self._always
        return table.split(text, literal_spans) if text else []

    def count(self, text: str) -> int:
        """The number of places in the text where a special token may stand."""
        return self._all.count(text)


class _Table:
    """Special tokens by rank: a token's rank is its place in the order of the search."""

    def __init__(self, ordered: list[SpecialToken]) -> None:
        self._tokens = list({token.text: token for token in reversed(ordered)}.values())[::-1]
        self._ranks = {token.text: rank for rank, token in enumerate(self._tokens)}
        #: For each rank: the rank of the longest other token that is a prefix of the token's text; -1 for none.
        self._shorter = [self._begins(token.text) for token in self._tokens]
        self._pattern = re.compile(_pattern_of(self._ranks)) if self._ranks else None

    def _begins(self, text: str) -> int:
        return next((rank for end in range(len(text) - 1, 0, -1) if (rank := self._ranks.get(text[:end], -1)) >= 0), -1)

    def split(self, text: str, literal_spans: tuple[Span, ...]) -> Pieces:
        """See ``SpecialTokens``."""
        found = self._candidates(text)
        if not found:
            return [text]
        taken = self._assign(text, literal_spans, found)
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
        """For each rank: the places, rising, where that token is the longest that can stand there."""
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

    def _assign(
        self, text: str, literal_spans: tuple[Span, ...], found: dict[int, list[int]]
    ) -> list[tuple[int, int, int]]:
        """Start, end and id of each special token; the id is -1 for white space that is stripped."""
        used = bytearray(len(text))
        blocked = bytearray(used)  #: where no control token can stand
        for start, stop in literal_spans:
            blocked[start:stop] = b"\1" * (stop - start)
        taken: list[tuple[int, int, int]] = []
        ranks = list(found)
        heapq.heapify(ranks)
        while ranks:
            rank = heapq.heappop(ranks)
            token = self._tokens[rank]
            length = len(token.text)
            ones = b"\1" * length
            mask = blocked if token.control else used
            shorter = self._shorter[rank]
            left: list[int] = []
            for start in sorted(found.pop(rank)):
                stop = start + length
                if mask.find(1, start, stop) >= 0:
                    if shorter >= 0 and not used[start]:
                        left.append(start)
                    continue
                taken.append((start, stop, token.id))
                used[start:stop] = blocked[start:stop] = ones
                if token.lstrip or token.rstrip:
                    taken += _stripped(text, used, blocked, start if token.lstrip else -1, stop if token.rstrip else -1)
            if left:
                # A shorter token has a higher rank: it is looked at after all longer ones that leave it places.
                if shorter not in found:
                    heapq.heappush(ranks, shorter)
                found.setdefault(shorter, []).extend(left)
        return taken


def _stripped(text: str, used: bytearray, blocked: bytearray, before: int, after: int) -> list[tuple[int, int, int]]:
    """Strip the white space that ends at ``before`` and the one that begins at ``after``; -1 is nowhere."""
    taken: list[tuple[int, int, int]] = []
    start = before
    while start > 0 and not used[start - 1] and text[start - 1] in _SPACES:
        start -= 1
    stop = after
    while 0 <= stop < len(text) and not used[stop] and text[stop] in _SPACES:
        stop += 1
    for first, last in ((start, before), (after, stop)):
        if first < last:
            taken.append((first, last, -1))
            used[first:last] = blocked[first:last] = b"\1" * (last - first)
    return taken


def _pattern_of(texts: Iterable[str]) -> str:
    """A pattern that finds every place where one of ``texts`` stands, and the longest there. A match is the first
    character, and its group the rest: so overlapping places are found. The regex engine skips all other characters.
    """
    by_first: dict[str, list[str]] = {}
    for text in texts:
        by_first.setdefault(text[0], []).append(text[1:])
    return "|".join(f"{re.escape(first)}(?=({_longest_of(rests)}))" for first, rests in by_first.items())


def _longest_of(texts: list[str]) -> str:
    """A pattern that matches the longest of ``texts``. A common prefix is matched once for all texts that have it."""
    by_first: dict[str, list[str]] = {}
    for text in texts:
        if text:
            by_first.setdefault(text[0], []).append(text)
    branches: list[str] = []
    for group in by_first.values():
        common = _common_prefix(group)
        rest = [text[len(common) :] for text in group]
        branches.append(re.escape(common) + (_longest_of(rest) if len(group) > 1 else ""))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _common_prefix(texts: list[str]) -> str:
    """The longest common prefix of ``texts``."""
    first, last = min(texts), max(texts)  # A common prefix of these two is one of all between them.
    length = 0
    while length < len(first) and first[length] == last[length]:
        length += 1
    return first[:length]
