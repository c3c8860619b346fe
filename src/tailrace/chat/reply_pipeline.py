"""One choice's way from tokens to parts: detokenise, look for stop strings, parse."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.detokenize import Detokenizer, PieceTable
from tailrace.chat.reply_parser import ReplyParser
from tailrace.chat.reply_parts import ReplyPart, TextPart
from tailrace.chat.stop_strings import StopAutomaton, StopMatcher


class ReplyPipeline:
    """Turns one reply's tokens into parts. ``stopped`` is set when a stop string was found: then no more is fed."""

    __slots__ = ("_detokenizer", "_early", "_keep_stop", "_parser", "_plain", "_stops", "_texts", "stopped")

    def __init__(
        self,
        vocabulary: PieceTable,
        stops: StopAutomaton | Sequence[str],
        parser: ReplyParser | None,
        *,
        keep_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        """``keep_stop``: the stop string that ends the reply is part of it. In the first ``min_tokens`` tokens no stop
        string is looked for.
        """
        self._early = min_tokens
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopMatcher(stops) if stops else None
        self._keep_stop = keep_stop
        self._parser = parser
        self._texts = vocabulary.texts
        self._plain = self._passes_all()
        self.stopped = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._stops.found if self._stops is not None else None

    def plain(self, token: int) -> str | None:
        """All that ``feed`` would make of this token, where that is no more than its own text (perhaps empty) and
        nothing else is waiting; None leaves it to ``feed``.
        """
        return self._texts[token] if self._plain else None

    def feed(self, token: int) -> list[ReplyPart]:
        """The parts that this token completes."""
        text = self._detokenizer.feed(token)
        if self._early:
            self._early -= 1
        elif self._stops is not None and text:
            text, self.stopped = self._stops.feed(text)
            if self.stopped and self._keep_stop:
                text += self._stops.found or ""
        parts: list[ReplyPart] = []
        if text:
            parts = [TextPart(text)] if self._parser is None else self._parser.feed(text)
        self._plain = self._passes_all()
        return parts

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """What was held back, after the last token; ``cut`` as in ``ReplyParser``."""
        text = self._stops.finish() if self._stops is not None and not self.stopped else ""
        if self._parser is None:
            return [TextPart(text)] if text else []
        return [*(self._parser.feed(text) if text else []), *self._parser.finish(cut=cut)]

    def _passes_all(self) -> bool:
        """Whether whole characters that come now go out as they are."""
        if self._stops is not None or self._detokenizer.pending:
            return False
        return self._parser is None or self._parser.passes_all
