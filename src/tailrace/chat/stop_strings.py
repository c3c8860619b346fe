"""Stop strings over streamed text: nothing of a stop string is ever let out, nothing else is held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopAutomaton:
    """Stop strings (non-empty) made ready to be looked for all at once: the automaton of Aho and Corasick.

    Looking costs one step for each character of the text, however many strings there are; making it costs one for each
    character of theirs. It doesn't change, so all replies to one request share it.
    """

    __slots__ = ("depths", "fails", "matches", "nexts", "stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        #: For each state the next one by character. State 0 is the beginning of every string.
        self.nexts: list[dict[str, int]] = [{}]
        self.depths = [0]  #: how many of the text's last characters a state stands for
        self.fails = [0]  #: the state of the longest end of those that some string begins with
        #: The longest string that ends in the state, as its number; -1 for none.
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
        """Breadth first, so that the shorter states that a state falls back to are ready before it."""
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
    """Looks for the first of the stop strings in text that comes in pieces."""

    __slots__ = ("_held", "_state", "_table", "found")

    def __init__(self, stops: StopAutomaton | Sequence[str]) -> None:
        self._table = stops if isinstance(stops, StopAutomaton) else StopAutomaton(stops)
        self._state = 0
        self._held = ""
        self.found: str | None = None  #: the stop string that came first

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may go out, and whether a stop string was found (then the text before it is all there is).

        Of several that end in the same piece it is the one that begins first, and among those the first in the list.
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
        """What was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held
