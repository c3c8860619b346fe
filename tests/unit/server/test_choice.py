"""The size limits of an event hold for every text and every log probability."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tailrace.server.choice import MAX_EVENT_BYTES, MAX_EVENT_CHARACTERS, count_fitting, split_text
from tailrace.server.dialects.openai.chat import ChatStream
from tailrace.server.dialects.openai.reply import ReplyHead
from tailrace.server.events import TextDelta, TokenLogprob

RAW = st.binary(min_size=1, max_size=300)
LOGPROB = st.floats(-1e300, 0)


def entry(raw: bytes, logprob: float, top: list[tuple[bytes, float]]) -> TokenLogprob:
    return TokenLogprob(
        raw.decode("utf-8", "replace"), raw, logprob, [(r.decode("utf-8", "replace"), r, value) for r, value in top]
    )


ENTRIES = st.lists(
    st.builds(entry, RAW, LOGPROB, st.lists(st.tuples(RAW, LOGPROB), max_size=20)), min_size=1, max_size=30
)


@given(st.text(max_size=100), st.integers(1, 500))
def test_pieces_are_the_text_and_each_fits(text: str, times: int) -> None:
    cut = split_text(text * times)
    assert "".join(cut) == text * times
    assert all(len(piece) <= MAX_EVENT_CHARACTERS for piece in cut)
    assert all(len(msgspec.json.encode(piece)) <= 6 * MAX_EVENT_CHARACTERS + 2 for piece in cut)


@given(ENTRIES, st.integers(0, MAX_EVENT_CHARACTERS))
def test_what_is_said_to_fit_makes_a_line_that_fits(entries: list[TokenLogprob], length: int) -> None:
    """With the text of the worst case: every character escaped to six bytes."""
    fits = count_fitting(entries, MAX_EVENT_BYTES - 6 * length)
    stream = ChatStream(ReplyHead("chatcmpl", "m" * 200), 1, wants_usage=False, comments=False)
    (line,) = stream.encode(TextDelta(0, "\x01" * length, entries[:fits]))
    assert len(line) < 60_000
    told = json.loads(line[6:])["choices"][0]["logprobs"]["content"]
    assert [token["bytes"] for token in told] == [list(known.raw) for known in entries[:fits]]


def test_ordinary_log_probabilities_all_fit() -> None:
    ordinary = [entry(b" word", -1.25, [(b" word", -1.25)] * 5)] * 16
    assert count_fitting(ordinary, MAX_EVENT_BYTES - 6 * 100) == 16
