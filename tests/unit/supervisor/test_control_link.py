"""The supervisor's side of the control channel: a reader that doesn't read blocks nothing and loses nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tailrace.serving.control import ModelReport, ReportModels, UnloadModel, receive_reports, send
from tailrace.supervisor.control_link import ControlLink
from tailrace.supervisor.signal_queue import SignalQueue


class Phases:
    """Reports of models, with the newest reason."""

    reason = "first"

    def report(self, name: str) -> ModelReport:
        return ModelReport(name=name, phase="failed", reason=self.reason)


@pytest.fixture
def phases() -> Phases:
    return Phases()


@pytest.fixture
def link(phases: Phases) -> Iterator[ControlLink]:
    link = ControlLink(phases.report)
    yield link
    link.close()


@pytest.fixture
def server(link: ControlLink) -> Iterator[socket.socket]:
    """The end that an HTTP process has inherited."""
    with socket.socket(fileno=socket.dup(link.server_fd)) as end:
        end.setblocking(False)
        yield end


def test_a_full_socket_blocks_nothing_and_the_newest_report_arrives(
    link: ControlLink, server: socket.socket, phases: Phases
) -> None:
    phases.reason = "x" * 60_000
    for number in range(500):
        link.announce(f"model {number}")
    phases.reason = "newest"
    names: dict[str, str] = {}
    with SignalQueue(()) as signals:
        link.watch(signals)
        link.send_pending()
        for _ in range(500):
            names |= {report.name: report.reason for report in receive_reports(server)}
            if len(names) == 500:
                break
            signals.wait(60.0)
            link.send_pending()
        link.ignore()
    assert set(names) == {f"model {number}" for number in range(500)}
    assert names["model 499"] == "newest"


def test_an_order_ends_a_wait(link: ControlLink, server: socket.socket) -> None:
    with SignalQueue(()) as signals:
        link.watch(signals)
        send(server, ReportModels())
        assert signals.wait(60.0) == []
        assert link.orders() == [ReportModels()]
        link.ignore()


def test_a_wrong_order_is_an_error_in_the_log_and_later_ones_count(link: ControlLink, server: socket.socket) -> None:
    send(server, UnloadModel("a"))
    server.send(b"{}")
    send(server, ReportModels())
    assert link.orders() == [UnloadModel("a"), ReportModels()]
    assert link.orders() == []


def test_reports_for_a_dead_process_are_forgotten(link: ControlLink, server: socket.socket) -> None:
    for number in range(10):
        link.announce(f"model {number}")
    link.forget_reports()
    assert receive_reports(server) == []
    link.announce("next")
    assert [report.name for report in receive_reports(server)] == ["next"]


def test_a_channel_that_a_process_has_shut_down_ends_no_more_waits(link: ControlLink, server: socket.socket) -> None:
    """Otherwise the supervisor would never sleep again."""
    with SignalQueue(()) as signals:
        link.watch(signals)
        server.shutdown(socket.SHUT_RDWR)
        signals.wait(60.0)
        assert signals.wait(0.0) == []
        link.announce("a")
        signals.wait(0.0)
        assert signals._poll.poll(0) == []
