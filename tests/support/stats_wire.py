"""Reads ``/stats`` of a server under test."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

import msgspec

from servers import PATIENCE, ServerProcess
from tailrace.diagnosis.catalogue import Finding
from tailrace.diagnosis.report import Stats


def read_stats(server: ServerProcess, **headers: str) -> Stats:
    """The statistics now."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/stats", headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.status == 200, body
    return msgspec.json.decode(body, type=Stats)


def wait_for_finding(
    server: ServerProcess, code: str, accept: Callable[[Finding], bool] = lambda finding: True, *, seconds: float = 60.0
) -> tuple[Finding, Stats]:
    """The finding ``code`` that ``accept`` takes, and the statistics with it; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        stats = read_stats(server)
        for finding in stats.findings:
            if finding.code == code and accept(finding):
                return finding, stats
        shown = "\n".join(f"{each.code}: {each.sentence}" for each in stats.findings)
        assert time.monotonic() < deadline, f"no {code} after {seconds:.0f} s; the last findings:\n{shown}"
        time.sleep(1.0)
