"""Log probabilities in the older form of text completions: parallel lists, and likely tokens by their text.

Different tokens may have the same text, or none by itself: each has a label of its own here, as OpenAI's replies have.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

from tailrace.server.events import TokenLogprob


def logprobs_object(entries: Iterable[TokenLogprob], offsets: list[int]) -> dict[str, Any]:
    """The four lists. ``top_logprobs`` includes the chosen token, so it may have one more entry than requested."""
    tokens: list[str] = []
    likely: list[dict[str, float]] = []
    for entry in entries:
        chosen = label(entry.text, entry.raw)
        labels: dict[str, float] = {}
        has_chosen = False
        for number, (text, raw, value) in enumerate(entry.top):
            token = entry.ids[number] if entry.ids else None
            if token == entry.token if token is not None else raw == entry.raw and text == entry.text:
                has_chosen = True
                labels[chosen] = value
            else:
                labels[_distinct(text, raw, token, {*labels, chosen})] = value
        if not has_chosen:
            labels[chosen] = entry.logprob
        tokens.append(chosen)
        likely.append(labels)
    return {
        "tokens": tokens,
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": likely,
        "text_offset": offsets,
    }


def label(text: str, raw: bytes) -> str:
    """The token's text; of bytes that are no text by themselves OpenAI's form, such as ``bytes:\\xf0\\x9f``."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _bytes(raw)
    return text


def _distinct(text: str, raw: bytes, token: int | None, taken: set[str]) -> str:
    """A label that no other token of the place has: its text, else its bytes, else those with its number."""
    plain = label(text, raw)
    for candidate in (plain, _bytes(raw), f"{_bytes(raw)}#{token}"):
        if candidate not in taken:
            return candidate
    number = 2
    while (candidate := f"{_bytes(raw)}#{token}.{number}") in taken:
        number += 1
    return candidate


def _bytes(raw: bytes) -> str:
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class Offsets:
    """The offset of each token in a choice's text, in characters. A token within a character has that character's
    offset.
    """

    def __init__(self, start: int = 0) -> None:
        """``start`` is the length of the text before the reply."""
        self._offset = start
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next_offsets(self, entries: Iterable[TokenLogprob], end: int) -> list[int]:
        """The offsets of the next tokens. ``end`` is the length of the text sent with them; tokens of a stop string add
        no text.
        """
        offsets: list[int] = []
        for entry in entries:
            offsets.append(min(self._offset, end))
            self._offset += len(self._decoder.decode(entry.raw))
        return offsets
