"""The older form of log probabilities: a label for each token, the chosen one always there, offsets within the text."""

from __future__ import annotations

import codecs
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tailrace.server.dialects.openai.legacy_logprobs import Offsets, label, logprobs_object
from tailrace.server.events import TokenLogprob

#: A vocabulary in which tokens share their text, have none, or have bytes that are none.
PIECES = [b"a", b"a", b"a", b"", b"", b"\xf0", b"\xf0\x9f", b"\x9f", b"\xc3\xa9", b"\xef\xbf\xbd", b"\xff"]
TOKENS = st.integers(0, len(PIECES) - 1)


def entry(token: int, top: list[int]) -> TokenLogprob:
    def text(one: int) -> str:
        return PIECES[one].decode("utf-8", "replace")

    likely = [(text(one), PIECES[one], -1.0 - number) for number, one in enumerate(top)]
    value = likely[top.index(token)][2] if token in top else -99.0
    return TokenLogprob(text(token), PIECES[token], value, likely, token, top)


@given(TOKENS, st.lists(TOKENS, unique=True, max_size=len(PIECES)))
def test_every_token_has_a_label_of_its_own(token: int, top: list[int]) -> None:
    found = logprobs_object([entry(token, top)], [0])
    (likely,) = found["top_logprobs"]
    assert len(likely) == len({*top, token})
    assert likely[found["tokens"][0]] == found["token_logprobs"][0]
    assert sorted(likely.values()) == sorted({*(-1.0 - n for n in range(len(top))), found["token_logprobs"][0]})


def test_labels() -> None:
    assert label("é", "é".encode()) == "é"
    assert label("\ufffd", b"\xf0\x9f") == "bytes:\\xf0\\x9f"
    assert label("\ufffd", "\ufffd".encode()) == "\ufffd"


@given(st.lists(TOKENS, max_size=30), st.lists(st.integers(0, 29), max_size=5), st.integers(0, 3))
def test_offsets_are_those_of_the_decoded_text_however_they_are_cut(
    tokens: list[int], cuts: list[int], start: int
) -> None:
    entries = [entry(token, []) for token in tokens]
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(PIECES[token] for token in tokens))
    end = start + len(text)
    whole = Offsets(start).next_offsets(entries, end)
    for number, place in enumerate(whole):
        before = codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(PIECES[t] for t in tokens[:number]))
        assert place == start + len(before) <= end
    pieces, offsets = Offsets(start), []
    bounds = [0, *sorted(cut for cut in cuts if cut <= len(entries)), len(entries)]
    for low, high in pairwise(bounds):
        offsets += pieces.next_offsets(entries[low:high], end)
    assert offsets == whole
