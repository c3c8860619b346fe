"""The control channel: messages stay whole and in order, and a wrong one is an error."""

from __future__ import annotations

import socket

import pytest

from tailrace.errors import ProtocolError
from tailrace.serving.control import (
    FromServer,
    LoadModel,
    ModelReport,
    ReportModels,
    UnloadModel,
    control_channel,
    receive_order,
    receive_reports,
    send,
)
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


def received(end: socket.socket) -> list[FromServer]:
    """The orders that have come."""
    return list(iter(lambda: receive_order(end), None))


def test_orders_and_reports_arrive_whole_and_in_order() -> None:
    server, supervisor = control_channel()
    spec = ModelSpec(name="coder", path="/models/coder.gguf", settings=Settings(ctx=4096))
    with server, supervisor:
        orders: list[FromServer] = [LoadModel(spec), UnloadModel("coder"), ReportModels()]
        for order in orders:
            send(server, order)
        report = ModelReport(name="coder", phase="failed", reason="no such file")
        send(supervisor, report)
        assert received(supervisor) == orders
        assert received(supervisor) == []
        assert receive_reports(server) == [report]


def test_what_is_no_message_is_an_error() -> None:
    server, supervisor = control_channel()
    with server, supervisor:
        server.send(b'{"type": "dance"}')
        with pytest.raises(ProtocolError, match="not a control message"):
            received(supervisor)


def test_a_message_beyond_the_limit_is_an_error() -> None:
    server, supervisor = control_channel()
    with server, supervisor, pytest.raises(ProtocolError, match="over the limit"):
        send(server, UnloadModel("x" * 300_000))
