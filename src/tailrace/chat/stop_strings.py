"""Finds stop strings in streamed text. No part of a stop string is passed on, and no other text is held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopAutomaton:
    """The Aho-Corasick automaton of several non-empty stop strings.

    A search takes one step for each character of the text, whatever the number of strings. The automaton is immutable,
    so all replies to one request share it.
    """

    __slots__ = ("depths", "fails", "matches", "nexts", "stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        #: For each state: the next state by character. State 0 is the start of every string.
        self.nexts: list[dict[str, int]] = [{}]
        self.depths = [0]  #: for each state: the number of the text's last characters that it matches
        self.fails = [0]  #: for each state: the state of the longest suffix that some string begins with
        #: For each state: the number of the longest string that ends there; -1 for none.
        self.matches = [-1]
        for number, stop in enumerate(self.stops):
            self._add(number, stop)
        self._link()

    def _add(self, number: int, stop: str) -> None:
        state = 0
        for character in stop:
            following = self.nexts[state].get(character)
            if following is None:
                following = len(self.nexts)
                self.nexts[state][character] = following
                self.nexts.append({})
                self.depths.append(self.depths[state] + 1)
                self.fails.append(0)
                self.matches.append(-1)
            state = following
        if self.matches[state] < 0:
            self.matches[state] = number

    def _link(self) -> None:
        """Breadth first: a state's fallback is a shorter state, which is linked before it."""
        waiting = deque(self.nexts[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self.nexts[state].items():
                waiting.append(following)
                back = self.follow(self.fails[state], character)
                self.fails[following] = back
                if self.matches[following] < 0:
                    self.matches[following] = self.matches[back]

    def follow(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (following := self.nexts[state].get(character)) is None:
            if not state:
                return 0
            state = self.fails[state]
        return following


class StopMatcher:
    """Searches a text that comes in pieces for the first stop string."""

    __slots__ = ("_held", "_state", "_table", "found")

    def __init__(self, stops: StopAutomaton | Sequence[str]) -> None:
        self._table = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._state = 0
        self._held = ""
        self.found: str | None = None  #: the stop string that came first

    def feed(self, text: str) -> tuple[str, bool]:
        """The text to pass on, and whether a stop string was found: then the text ends before it.

        Among several strings in the same piece the one that begins first counts, then the first in the list.
        """
        table, state = self._table, self._state
        follow, matches, stops = table.follow, table.matches, table.stops
        whole = self._held + text
        best: tuple[int, int] | None = None
        for end, character in enumerate(text, len(self._held) + 1):
            state = follow(state, character)
            if (number := matches[state]) >= 0:
                found = (end - len(stops[number]), number)
                best = found if best is None else min(best, found)
        if best is not None:
            self.found = stops[best[1]]
            self._held = ""
            return whole[: best[0]], True
        self._state = state
        free = len(whole) - table.depths[state]
        self._held = whole[free:]
        return whole[:free], False

    def finish(self) -> str:
        """The text that was held back for a stop string that isn't there."""
        held, self._held = self._held, ""
        return held
