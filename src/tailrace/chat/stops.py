"""Stop strings over streamed text: nothing of a stop string is ever let out, nothing else is held back."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Looks for the first of ``stops`` (non-empty strings) in text that comes in pieces."""

    __slots__ = ("_held", "_stops", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None  #: the stop string that came first

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that may go out, and whether a stop string was found (then the text before it is all there is)."""
        text = self._held + text
        found = [(position, stop) for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            position, self.found = min(found, key=lambda entry: entry[0])
            self._held = ""
            return text[:position], True
        keep = self._possible_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def finish(self) -> str:
        """What was held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string could begin."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
