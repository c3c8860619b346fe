"""Turns one choice's tokens into parts of its reply: detokenise, search for stop strings, parse."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.detokenize import Detokenizer, PieceTable
from tailrace.chat.reply_parser import ReplyParser
from tailrace.chat.reply_parts import ReplyPart, TextPart
from tailrace.chat.stop_strings import StopAutomaton, StopMatcher


class ReplyPipeline:
    """One reply's pipeline. ``stopped`` is true once a stop string has been found: no token may follow."""

    __slots__ = ("_detokenizer", "_is_fast", "_keep_stop", "_min_tokens_left", "_parser", "_stops", "_texts", "stopped")

    def __init__(
        self,
        vocabulary: PieceTable,
        stops: StopAutomaton | Sequence[str],
        parser: ReplyParser | None,
        *,
        keep_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        """``keep_stop``: the stop string that ends the reply is part of it. Stop strings in the first ``min_tokens``
        tokens are ignored.
        """
        self._min_tokens_left = min_tokens
        self._detokenizer = Detokenizer(vocabulary)
        self._stops = StopMatcher(stops) if stops else None
        self._keep_stop = keep_stop
        self._parser = parser
        self._texts = vocabulary.texts
        self._is_fast = self._passes_all()
        self.stopped = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that was found."""
        return self._stops.found if self._stops is not None else None

    def fast_text(self, token: int) -> str | None:
        """The token's text (perhaps empty), where ``feed`` would return just that. None: call ``feed``."""
        return self._texts[token] if self._is_fast else None

    def feed(self, token: int) -> list[ReplyPart]:
        """The parts that this token completes."""
        text = self._detokenizer.feed(token)
        if self._min_tokens_left:
            self._min_tokens_left -= 1
        elif self._stops is not None and text:
            text, self.stopped = self._stops.feed(text)
            if self.stopped and self._keep_stop:
                text += self._stops.found or ""
        parts: list[ReplyPart] = []
        if text:
            parts = [TextPart(text)] if self._parser is None else self._parser.feed(text)
        self._is_fast = self._passes_all()
        return parts

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """The parts that were held back, after the last token. ``cut`` as in ``ReplyParser``."""
        text = self._stops.finish() if self._stops is not None and not self.stopped else ""
        if self._parser is None:
            return [TextPart(text)] if text else []
        return [*(self._parser.feed(text) if text else []), *self._parser.finish(cut=cut)]

    def _passes_all(self) -> bool:
        """Whether complete characters that come next are passed on unchanged."""
        if self._stops is not None or self._detokenizer.pending:
            return False
        return self._parser is None or self._parser.passes_all
