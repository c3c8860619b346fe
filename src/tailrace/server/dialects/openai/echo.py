"""The echoed prompt of a text completion, with the log probabilities of its tokens."""

from __future__ import annotations

import codecs
from typing import Any

import msgspec

from tailrace.chat.detokenize import PieceTable
from tailrace.protocol import ModelInfo, Scored, TokenLogprobs
from tailrace.server.choice import MAX_EVENT_BYTES, count_fitting, split_text
from tailrace.server.dialects.openai.legacy_logprobs import logprobs_object
from tailrace.server.dialects.openai.tokenize_bodies import piece_of
from tailrace.server.events import TokenLogprob

#: Log probabilities of one request's echoes, those of the likely tokens included. Each takes 200 bytes.
MAX_ENTRIES = 250_000


class Echo(msgspec.Struct, frozen=True):
    """One prompt: its text, the number of its tokens, and the tokens with their log probabilities, where requested."""

    text: str
    tokens: int
    entries: list[TokenLogprob] = []
    offsets: list[int] = []  #: where in the text each entry begins

    def logprobs(self) -> dict[str, Any]:
        """The older form of log probabilities. The first token has none, because no token precedes it."""
        return _first_is_null(logprobs_object(self.entries, self.offsets))

    def stream(self) -> list[tuple[str, dict[str, Any] | None]]:
        """The text, and then the log probabilities, cut to the size of a stream's events."""
        parts: list[tuple[str, dict[str, Any] | None]] = [(text, None) for text in split_text(self.text)]
        start = 0
        while start < len(self.entries):
            end = start + max(1, count_fitting(self.entries[start:], MAX_EVENT_BYTES))
            found = logprobs_object(self.entries[start:end], self.offsets[start:end])
            parts.append(("", found if start else _first_is_null(found)))
            start = end
        return parts


def scored_echo(text: str, scored: Scored, vocabulary: PieceTable, info: ModelInfo) -> Echo:
    """The echo of a prompt whose tokens have been scored."""

    def entry(token: int, found: TokenLogprobs) -> TokenLogprob:
        raw = piece_of(token, vocabulary, info)
        top = [(piece_of(likely, vocabulary, info), value) for likely, value in found.top]
        likely_tokens = [(_decoded(one), one, value) for one, value in top]
        return TokenLogprob(
            _decoded(raw), raw, found.logprob, likely_tokens, token, [likely for likely, _ in found.top]
        )

    none = TokenLogprobs(0.0, [])
    entries = [entry(token, found) for token, found in zip(scored.tokens, [none, *scored.logprobs], strict=True)]
    return Echo(text, len(entries), entries, _offsets(text, entries))


def _first_is_null(found: dict[str, Any]) -> dict[str, Any]:
    for name in ("token_logprobs", "top_logprobs"):
        found[name] = [None, *found[name][1:]]
    return found


def _offsets(text: str, entries: list[TokenLogprob]) -> list[int]:
    """Where each token begins; one that ends inside a character leaves the next at that character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, offset = [], 0
    for number, entry in enumerate(entries):
        offsets.append(min(offset, len(text)))
        if number or text.startswith(entry.text):  # Else the tokenizer has put a start token in front.
            offset += len(decoder.decode(entry.raw))
    return offsets


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
