"""How long a pull waits between attempts, and when it gives up."""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from pull_servers import Content, Storage
from tailrace.errors import PullFailed
from tailrace.models.pulls.retries import Interrupted, Retries
from tailrace.models.pulls.transport import Transport


def test_pauses_grow_without_progress_and_begin_anew_with_it() -> None:
    pauses: list[float] = []
    retries = Retries(lambda note: None, pauses.append)
    for _ in range(5):
        retries.pause(Interrupted("cut"), progressed=False)
    assert all(later > earlier for earlier, later in pairwise(pauses))
    retries.pause(Interrupted("cut"), progressed=True)
    assert pauses[-1] < 1
    for _ in range(5):
        retries.pause(Interrupted("cut"), progressed=False)
    with pytest.raises(PullFailed, match="it goes on where it ended"):
        retries.pause(Interrupted("cut"), progressed=False)


def test_a_server_that_was_never_reached_is_given_up_soon() -> None:
    pauses: list[float] = []
    retries = Retries(lambda note: None, pauses.append)
    retries.pause(Interrupted("no such name", answered=False), progressed=False)
    with pytest.raises(PullFailed, match="HTTPS_PROXY"):
        retries.pause(Interrupted("no such name", answered=False), progressed=False)
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0.0, 0.0),
        ("12", 12.0, 12.0),
        (lambda: formatdate(time.time() + 100, usegmt=True), 90.0, 100.0),
        (lambda: formatdate(time.time() - 100, usegmt=True), 0.0, 0.0),
        ("soon", 0.5, 2.0),
        ("-1", 0.5, 2.0),
        ("", 0.5, 2.0),
    ],
)
def test_retry_after(value: object, least: float, most: float) -> None:
    storage, pauses = Storage(), list[float]()
    content = Content(b"x")
    storage.files[content.sha256] = content
    storage.behaviour.status = [503]
    storage.behaviour.headers = {"Retry-After": value() if callable(value) else str(value)}
    transport = Transport(retries=lambda report: Retries(report, pauses.append))
    with storage.running():
        answer = transport.read(storage.url_of(content.sha256), {}, limit=10, report=lambda note: None)
    transport.close()
    assert answer.body == b"x"
    (pause,) = pauses
    assert least <= pause <= most
