"""The messages between the ingress and its parent: lines of JSON, orders on standard input, reports on standard output.

The first line is an ``IngressStart``, every other one an ``Order``. The end of standard input means that the parent is
gone: the ingress goes on serving, its readiness fails, and after ``linger_seconds`` it drains and ends.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tailrace.cluster_protocol.state import SILENCE_SECONDS
from tailrace.settings import Settings


class IngressStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The orders at the start. Of ``settings`` the ingress uses those of the HTTP side; ``cluster_secret`` is needed.

    Several ingresses may listen on one address with ``reuse_port``, so that a new one takes over while an old one
    drains.
    """

    settings: Settings
    reuse_port: bool = False  #: other processes of this user may listen on the same address
    socket_fd: int = -1  #: an inherited socket that listens already; -1: the ingress makes one
    attempts: Annotated[int, Meta(ge=1, le=16)] = 3  #: replicas to which one request is sent, at most
    wait_seconds: Annotated[float, Meta(ge=0, le=3600)] = 300.0  #: how long a request waits for a replica to be ready
    silence_seconds: Annotated[float, Meta(gt=0, le=3600)] = SILENCE_SECONDS  #: of a replica, after which it is lost
    lookup_seconds: Annotated[float, Meta(gt=0, le=3600)] = 2.0  #: for a replica's answer which prefixes a prompt has
    linger_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0  #: how long it serves after its parent has gone
    replica_header: bool = False  #: whether responses name their replica in ``x-tailrace-replica``


class ClusterModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model that the cluster serves, whether or not it has replicas now."""

    name: str
    keys: tuple[str, ...] = ()  #: what its names have in common with other spellings (``models.reference.name_keys``)
    aliases: tuple[str, ...] = ()  #: further names; ``*`` stands for any characters
    max_replicas: Annotated[int, Meta(ge=0)] = 0  #: for the metrics; 0: not known
    wakes: bool = False  #: requests wait for a replica where there is none, and a ``Wanted`` is reported


class SetModels(msgspec.Struct, frozen=True, tag="models"):
    """All models, the default first. Without it the models are those of the replicas."""

    models: tuple[ClusterModel, ...]


class AddReplica(msgspec.Struct, frozen=True, tag="add"):
    """A replica may be used as soon as its state channel says that it is ready."""

    id: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65_535)]
    models: tuple[str, ...] = ()  #: those that it serves, as long as its channel hasn't named them


class RemoveReplica(msgspec.Struct, frozen=True, tag="remove"):
    """A replica gets no new request; running replies go on to their end."""

    id: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Drain, then end; the same as SIGTERM."""


Order = SetModels | AddReplica | RemoveReplica | Stop


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """Requests are taken at this port."""

    port: int


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """So many requests wait for a replica of this model. Repeated every second while they wait."""

    model: str
    requests: int


class ReplicaSeen(msgspec.Struct, frozen=True, tag="replica"):
    """A replica's channel has changed its phase, or is lost (``gone``)."""

    id: str
    phase: str


Report = Listening | Wanted | ReplicaSeen

_order_decoder = msgspec.json.Decoder(Order)
_report_decoder = msgspec.json.Decoder(Report)


def decode_order(line: bytes) -> Order:
    """One line of standard input. Raises msgspec.ValidationError and msgspec.DecodeError."""
    order: Order = _order_decoder.decode(line)
    return order


def decode_report(line: bytes) -> Report:
    """One line of the ingress's standard output, for the parent. Raises as ``decode_order``."""
    report: Report = _report_decoder.decode(line)
    return report


def encode(message: IngressStart | Order | Report) -> bytes:
    """The message's line."""
    return msgspec.json.encode(message) + b"\n"
