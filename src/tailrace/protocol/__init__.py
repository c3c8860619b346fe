"""The contract between the HTTP process and the engine process, and nothing else.

The HTTP process sends ``Submit`` and ``Cancel``; an engine sends ``Hello`` once, then ``Accepted`` or ``Refused`` for
each submit. It sends one ``Step`` for each engine step, with every request's new tokens, and a ``Heartbeat`` at least
once a second. In a cluster a ``PrefixReport`` says which prefixes it holds. Messages are msgpack on the wire (``ipc``
frames them). Each replica of the engine has a connection.

A submitted id ends in exactly one of: ``Refused``, a ``Finished`` or a ``Failed`` inside a ``Step``, the client's own
``Cancel`` (which is not answered), or the end of the connection.

Queries are no generations: ``Tokenize`` is answered with ``Tokenized``, ``Embed`` with one ``Embedded`` for each input,
``Rank`` with one ``Ranked`` for each document, ``Score`` with ``Scored``. A query may also be ``Refused``, or
``Failed`` in a step.

``requests`` are the messages to an engine; ``answers``, ``engine_reports`` and ``model_info`` those from it.
"""

from __future__ import annotations

from tailrace.protocol.answers import (
    Accepted,
    Embedded,
    EmbeddingAnswer,
    Failed,
    Finished,
    FinishReason,
    FromEngine,
    Hello,
    Predicted,
    Progress,
    QueryAnswer,
    Ranked,
    RefusalCode,
    Refused,
    RefusedField,
    Scored,
    Started,
    Step,
    Tokenized,
    TokenLogprobs,
)
from tailrace.protocol.engine_reports import (
    EngineCounters,
    Heartbeat,
    LinkFigures,
    LinkTraffic,
    LinkUse,
    PrefixReport,
    SpeedComparison,
    WorkerFigures,
)
from tailrace.protocol.model_info import (
    DeviceShare,
    ModelInfo,
    RankScore,
)
from tailrace.protocol.requests import (
    Cancel,
    Embed,
    EngineQuery,
    Pooling,
    Rank,
    Score,
    Submit,
    ToEngine,
    Tokenize,
)

__all__ = [
    "PROTOCOL_VERSION",
    "Accepted",
    "Cancel",
    "DeviceShare",
    "Embed",
    "Embedded",
    "EmbeddingAnswer",
    "EngineCounters",
    "EngineQuery",
    "Failed",
    "FinishReason",
    "Finished",
    "FromEngine",
    "Heartbeat",
    "Hello",
    "LinkFigures",
    "LinkTraffic",
    "LinkUse",
    "ModelInfo",
    "Pooling",
    "Predicted",
    "PrefixReport",
    "Progress",
    "QueryAnswer",
    "Rank",
    "RankScore",
    "Ranked",
    "RefusalCode",
    "Refused",
    "RefusedField",
    "Score",
    "Scored",
    "SpeedComparison",
    "Started",
    "Step",
    "Submit",
    "ToEngine",
    "TokenLogprobs",
    "Tokenize",
    "Tokenized",
    "WorkerFigures",
]

#: Raised when a message changes its meaning; the handshake refuses another number.
PROTOCOL_VERSION = 8
