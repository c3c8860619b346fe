"""The control channel: the HTTP process orders models to be loaded and unloaded, and the supervisor reports.

The messages are JSON over a pair of Unix sockets that keep messages whole. The supervisor keeps both ends, so the
channel outlives the HTTP process. An HTTP process that starts sends ``ReportModels``, and takes requests when it knows
what is loaded: an order that is based on less could load more than the memory has.
"""

from __future__ import annotations

import socket
from typing import Literal, TypeVar

import msgspec

from tailrace.errors import ProtocolError
from tailrace.serving.model_spec import ModelSpec

Message = TypeVar("Message")

#: Bytes of the largest message; a spec has 4 kB, and a file's template is named, not sent.
_MAX_MESSAGE = 256 * 1024

#: ``starting``: its engines load, or are started again. ``serving``: all have connected. ``stopping``: they have been
#: told to end. ``unloaded``: there are none. ``failed``: they can't load, for the reason that the report has.
ModelPhase = Literal["starting", "serving", "stopping", "unloaded", "failed"]


class LoadModel(msgspec.Struct, tag="load", frozen=True):
    """Start the model's engines. A model that is there, or starts, is reported again."""

    spec: ModelSpec


class UnloadModel(msgspec.Struct, tag="unload", frozen=True):
    """End the model's engines, which save their prefix states first. The HTTP process has ended its requests."""

    name: str


class ServeModel(msgspec.Struct, tag="serve", frozen=True):
    """The model is served from now on, also by the next HTTP process; instead of one of its name. It loads nothing."""

    spec: ModelSpec


class RemoveModel(msgspec.Struct, tag="remove", frozen=True):
    """The model is served no more, nor by the next HTTP process. Its engines end with ``UnloadModel``."""

    name: str


class ReportModels(msgspec.Struct, tag="report", frozen=True):
    """Report every model that has engines or has failed. A report with an empty name, in phase unloaded, is the end."""


class ModelReport(msgspec.Struct, tag="model", frozen=True, kw_only=True):
    """A model's engines, whenever their phase changes."""

    name: str
    phase: ModelPhase
    reason: str = ""  #: why it failed, or what it waits for, for a user
    bytes: int = 0  #: memory that its engines take, as measured, and may still come to take; 0: not known yet
    replicas: int = 1  #: how many engines it has
    first_child: int = -1  #: the number of its first engine on the page of lives (``lives_page``); -1: it has none


FromServer = LoadModel | UnloadModel | ServeModel | RemoveModel | ReportModels
FromSupervisor = ModelReport
_encoder = msgspec.json.Encoder()
_from_server: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer)
_from_supervisor: msgspec.json.Decoder[FromSupervisor] = msgspec.json.Decoder(FromSupervisor)


def control_channel() -> tuple[socket.socket, socket.socket]:
    """The HTTP process's end, and the supervisor's, neither of which blocks."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MAX_MESSAGE)
    return ends


def send(end: socket.socket, message: FromServer | FromSupervisor) -> None:
    """Send one message. Raises OSError where the other process doesn't read, and ProtocolError for one too large."""
    data = _encoder.encode(message)
    if len(data) > _MAX_MESSAGE:
        raise ProtocolError(f"a control message of {len(data)} bytes is over the limit of {_MAX_MESSAGE}")
    end.send(data)


def receive_order(end: socket.socket) -> FromServer | None:
    """The HTTP process's next order; None: none has come. Raises ProtocolError, and the order behind comes next."""
    try:
        data = end.recv(_MAX_MESSAGE)
    except BlockingIOError:
        return None
    return _decode(_from_server, data) if data else None


def receive_reports(end: socket.socket) -> list[FromSupervisor]:
    """The supervisor's reports that have come. Raises ProtocolError."""
    found: list[FromSupervisor] = []
    while True:
        try:
            data = end.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return found
        if not data:
            return found
        found.append(_decode(_from_supervisor, data))


def _decode(decoder: msgspec.json.Decoder[Message], data: bytes) -> Message:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a control message: {error}") from error
