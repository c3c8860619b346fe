"""The progress of a body from a client, and of the bytes that wait for one."""

from __future__ import annotations

import pytest

from tailrace.server.transfer_progress import BodyProgress, SendProgress


def test_a_body_that_stands_still_is_stuck() -> None:
    body = BodyProgress()
    body.begin(100.0)
    body.add(50_000)
    assert not body.is_stuck(101.0, 5.0)
    assert not body.is_stuck(106.0, 5.0)
    assert body.is_stuck(106.5, 5.0)


def test_the_time_in_which_the_server_reads_nothing_does_not_count() -> None:
    body = BodyProgress()
    body.begin(100.0)
    body.pause(10.0)
    assert not body.is_stuck(114.0, 5.0)
    assert body.is_stuck(115.5, 5.0)


def test_a_body_in_tiny_pieces_is_refused_and_the_next_one_begins_anew() -> None:
    body = BodyProgress()
    body.begin(0.0)
    for _ in range(8_192):
        body.add(1)
    with pytest.raises(ValueError, match="too small"):
        body.add(1)
    assert body.has_many_pieces
    body.begin(1.0)
    assert (body.bytes, body.has_many_pieces) == (0, False)
    body.add(1)


def test_a_client_that_takes_nothing_is_stuck_and_keeps_its_last_count() -> None:
    sending = SendProgress()
    assert not sending.is_stuck(0.0, 5.0, 1_000_000, 1_000_000)
    assert not sending.is_stuck(4.0, 5.0, 1_000_000, 1_000_000)
    assert sending.is_stuck(6.0, 5.0, 2_000_000, 2_000_000)
    assert sending.unsent == 1_000_000


def test_a_stream_that_grows_while_the_client_reads_is_not_stuck() -> None:
    sending = SendProgress()
    for second in range(20):
        written = 1_000_000 + 100_000 * second
        assert not sending.is_stuck(float(second), 5.0, 1_000_000, written)
    assert sending.seconds_left(20.0) == pytest.approx(10.0, rel=0.1)
