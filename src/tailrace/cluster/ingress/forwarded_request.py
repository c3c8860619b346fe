"""A client's request, as it goes to any replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tailrace.cluster.ingress.dialects import Dialect, StreamFacts

#: Requests that an engine works on: they wait for a replica, and wake a model that has none. Paths without ``/v1``.
COMPUTING = frozenset(
    {
        "/chat/completions",
        "/chat/completions/input_tokens",
        "/completions",
        "/embeddings",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/messages",
        "/messages/count_tokens",
        "/responses",
        "/responses/input_tokens",
        "/completion",
        "/infill",
        "/embedding",
        "/rerank",
        "/reranking",
        "/v2/rerank",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
    }
)


@dataclass(frozen=True)
class ForwardedRequest:
    """See the module. ``head``: the bytes that a replica gets before the body."""

    method: str
    path: str  #: canonical
    dialect: Dialect
    model: str | None  #: the cluster's name of it; None: any replica may answer
    head: bytes
    facts: StreamFacts
    own_headers: Sequence[tuple[bytes, bytes]]  #: of a stream that the ingress opens
    streams: bool  #: the client wants a stream
    wakes: bool  #: a replica may be started for it
    is_chunked: bool  #: the client knows HTTP/1.1's chunked coding
    keepalive_seconds: float  #: silence before a sign of life

    @property
    def waits(self) -> bool:
        """Whether it waits for a replica where none is ready."""
        return self.path in COMPUTING
