"""What a request charges to its key."""

from __future__ import annotations

from datetime import UTC, datetime

from tailrace.server.keys.allowance import Allowance, Place
from tailrace.server.keys.keys_file import KeyRecord
from tailrace.server.keys.token_charge import TokenCharge


def test_new_tokens_are_charged_once_from_the_beginning_on() -> None:
    used: list[int] = []
    record = KeyRecord(name="a", id="1", sha256="0" * 64, created=datetime(2026, 1, 1, tzinfo=UTC))
    charge = TokenCharge(Place(Allowance(record, lambda day, tokens: used.append(tokens))))
    charge.update(10)
    assert used == []
    charge.begin()
    for tokens in (10, 10, 14, 12):
        charge.update(tokens)
    assert used == [10, 4]


def test_a_request_without_a_key_charges_nothing() -> None:
    charge = TokenCharge(None)
    charge.begin()
    charge.update(10)
    assert charge.place is None
