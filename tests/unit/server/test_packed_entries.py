"""Structs in one block of memory."""

from __future__ import annotations

import msgspec

from tailrace.server.events import TokenLogprob
from tailrace.server.packed_entries import PackedEntries


def test_entries_come_back_as_they_were_each_time() -> None:
    entries = [
        TokenLogprob("é", b"\xc3\xa9", -0.1, [("b", b"\xff", -1.5e300)], 3, [7]),
        TokenLogprob("", b"", -0.0, []),
    ]
    packed = PackedEntries(msgspec.msgpack.Decoder(TokenLogprob))
    assert not packed
    packed.extend(entries[:1])
    packed.extend(entries[1:])
    assert (list(packed), list(packed), len(packed)) == (entries, entries, 2)
