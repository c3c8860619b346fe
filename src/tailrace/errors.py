"""Every error that tailrace raises on purpose, in one tree.

    TailraceError
    ├── RequestError            a client's request can't be served; knows its HTTP status, type and code
    │   ├── InvalidRequest          400  a field is wrong; ``param`` names it
    │   ├── ContextLengthExceeded   400  the prompt doesn't fit
    │   ├── Unauthorized            401  the key is missing or wrong (never used for anything else: relays disable a
    │   │                                channel on 401)
    │   ├── Forbidden               403  the server's settings don't allow it
    │   ├── NotFound                404  no such route
    │   ├── ModelNotFound           404  no such model
    │   ├── MethodNotAllowed        405  the route exists, the verb doesn't
    │   ├── RequestTimeout          408  the client has begun a request and doesn't finish it
    │   ├── BodyTooLarge            413  the body is over the limit
    │   ├── UnsupportedContentEncoding       415  the body is compressed in a way that isn't decoded here
    │   ├── TooManyRequests         429  the queue is full, or a limit of the key is reached; has ``retry_after``
    │   ├── SlowReader              500  the client reads far slower than the engine writes
    │   ├── GenerationFailed        500  the model can't go on with this reply; others can
    │   ├── InternalError           500  a defect of tailrace; the log has the details
    │   ├── EngineDied              500  the engine died while it worked on the request
    │   ├── NotSupported            501  the API has such a route, tailrace doesn't
    │   ├── FetchFailed             502  a model couldn't be fetched
    │   ├── ReplicaLost             502  the replica of a cluster that worked on the request is gone
    │   ├── NoReplica               503  no replica of the model is ready; has ``retry_after``
    │   ├── EngineUnavailable       503  the engine is loading, restarting or gone; has ``retry_after``
    │   ├── ModelLoadFailed         503  the model can't be loaded, for the reason in the message; has ``retry_after``
    │   ├── StorageUnavailable      503  what is stored for clients can't be used now; has ``retry_after``
    │   ├── ServerBusy              503  the bodies of other requests take all memory for bodies; has ``retry_after``
    │   ├── ShuttingDown            503  the server has been told to stop; has ``retry_after``
    │   └── DeadlineExceeded        504  a time limit of the server or of the client has passed
    ├── ConfigurationError      a setting is wrong; names the setting and where it came from
    ├── ModelError              a model can't be found, fetched, read or loaded
    │   └── PullFailed              a model can't be pulled; ``reason`` says in one word why
    └── ProtocolError           the two processes don't understand each other (a defect, never a user's fault)

The HTTP form of a RequestError is OpenAI's ``{"error": {"message", "type", "param", "code"}}``; other dialects wrap the
same attributes in their own shape.
"""

from __future__ import annotations


class TailraceError(Exception):
    """The root. ``str()`` of it is one sentence or two, for the person that has to act on it."""


class RequestError(TailraceError):
    """A client's request can't be served.

    ``status`` is the HTTP status, ``type`` and ``code`` are OpenAI's machine-readable words and ``param`` names the
    field at fault where there is one (a path such as ``messages[0].content``).
    """

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    retry_after: int | None = None  #: seconds
    counted = False  #: the metrics have it: a request may raise it, and report it in a stream too

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the error's response."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    """A field has a wrong type or value, or the body can't be read at all (then ``param`` is None)."""


class ContextLengthExceeded(RequestError):
    """The prompt alone fills the context; the message names both numbers.

    ``prompt_tokens`` is the prompt's length, or a lower bound of it where it is too large to be tokenised; ``context``
    the max length. None where they aren't known.
    """

    code = "context_length_exceeded"
    prompt_tokens: int | None = None
    context: int | None = None


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        """See ``RequestError``. A 401 names the scheme (RFC 9110, section 15.5.2)."""
        return {**super().headers, "www-authenticate": "Bearer"}


class Forbidden(RequestError):
    """The server's settings don't allow it: to any client, or to a web page of another site (``forbidden_host``,
    ``forbidden_origin``). No key is wrong.
    """

    status = 403
    code = "forbidden"


class RequestCancelled(RequestError):
    """The server's operator, or another request with the same key, has cancelled this one. Clients don't try again."""

    status = 403
    code = "request_cancelled"


class NotFound(RequestError):
    """No such route."""

    status = 404
    code = "not_found"


class ModelNotFound(RequestError):
    """The named model isn't served here."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The route doesn't take this verb."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The client has begun a request, and its rest doesn't come, or comes too slowly (RFC 9110, section 15.5.9)."""

    status = 408
    code = "request_timeout"


class BodyTooLarge(RequestError):
    """The request's body is over the limit."""

    status = 413
    code = "body_too_large"


class UnsupportedContentEncoding(RequestError):
    """The request's body has a content coding that isn't decoded here. The response's head says which are (RFC 9110,
    section 15.5.16).
    """

    status = 415
    code = "unsupported_content_encoding"

    def __init__(self, message: str, *, codings: tuple[str, ...]) -> None:
        super().__init__(message)
        self.codings = codings

    @property
    def headers(self) -> dict[str, str]:
        """See ``RequestError``."""
        return {**super().headers, "accept-encoding": ", ".join(self.codings)}


class TooManyRequests(RequestError):
    """The server takes no further request of this sender now: its queue is full, or a limit of the key is reached.

    ``retry_after`` is the time, in seconds, after which a request is likely to be taken; at least 1. ``code`` names the
    limit: ``queue_full``, ``rate_limit_exceeded`` or ``too_many_connections``. RFC 6585, section 4.
    """

    status = 429
    type = "rate_limit_error"
    code = "queue_full"

    def __init__(
        self, message: str, *, retry_after: int = 1, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = max(1, retry_after)


class SlowReader(RequestError):
    """The client fell too far behind its own stream, so its generation was stopped."""

    status = 500
    type = "server_error"
    code = "slow_reader"


class GenerationFailed(RequestError):
    """The model's computation gave no next token for this reply: its numbers are broken. Other replies go on."""

    status = 500
    type = "server_error"
    code = "generation_failed"


class GrammarTooComplex(GenerationFailed):
    """The reply's grammar can't be followed any further within the limits of time and size."""

    status = 400
    type = "invalid_request_error"
    code = "grammar_too_complex"


class InternalError(RequestError):
    """A defect of tailrace: the client gets no details."""

    status = 500
    type = "server_error"
    code = "internal_error"


class EngineDied(RequestError):
    """The engine process died under the request. The text so far is valid; the rest is lost; trying again is safe."""

    status = 500
    type = "server_error"
    code = "engine_died"


class NotSupported(RequestError):
    """A known route of the API that tailrace has no function for."""

    status = 501
    code = "not_supported"


class FetchFailed(RequestError):
    """A model couldn't be fetched. Where the reason may describe the local network, the log alone has it."""

    status = 502
    type = "server_error"
    code = "fetch_failed"


class ReplicaLost(RequestError):
    """The replica that worked on the request is gone. The text so far is valid; the rest is lost; trying again is
    safe.
    """

    status = 502
    type = "server_error"
    code = "replica_lost"


class NoReplica(RequestError):
    """No replica of the model is ready, and none has become so in time."""

    status = 503
    type = "server_error"
    code = "no_replica"
    retry_after = 5


class StorageUnavailable(RequestError):
    """What is stored for clients can't be read or written now: the disk is full, or another process has the file."""

    status = 503
    type = "server_error"
    code = "storage_unavailable"
    retry_after = 5


class EngineUnavailable(RequestError):
    """No engine to serve the request in time: it is loading, restarting or shutting down."""

    status = 503
    type = "server_error"
    code = "engine_unavailable"
    retry_after = 2


class ModelLoadFailed(RequestError):
    """The model that the request names can't be loaded: its file or its settings don't work, or memory is short."""

    status = 503
    type = "server_error"
    code = "model_load_failed"
    retry_after = 60


class DeadlineExceeded(RequestError):
    """A time limit has passed: the request's time in the queue, to its first token, or altogether.

    ``code`` names the limit: ``queue_timeout``, ``first_token_timeout`` or ``request_timeout``.
    """

    status = 504
    type = "timeout_error"
    code = "request_timeout"


class ServerBusy(RequestError):
    """The bodies that are being read take all the memory that they may have together."""

    status = 503
    type = "server_error"
    code = "server_busy"
    retry_after = 2


class ShuttingDown(RequestError):
    """The server has been told to stop. Another one, or the next one on this address, can serve the request."""

    status = 503
    type = "server_error"
    code = "shutting_down"
    retry_after = 5


class ConfigurationError(TailraceError):
    """A setting has a value that can't work; the message names the setting, its origin and what to do."""


class ModelError(TailraceError):
    """A model can't be found, fetched, verified, read or loaded; the message says what to do."""


class PullFailed(ModelError):
    """A model can't be pulled. What was downloaded so far stays, and the next pull goes on from there.

    ``reason`` is a word for programs: ``denied`` (a login, a licence or a payment is needed), ``missing`` (no such
    repository, model, tag or file), ``refused`` (what is there can't be served here), ``busy`` (the remote server wants
    fewer requests), ``network`` (it can't be reached, or breaks off), ``untrusted`` (a redirect that isn't followed),
    ``damaged`` (what arrives isn't what was announced) or ``disk`` (too little space, or no right to write).
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ProtocolError(TailraceError):
    """A message between the processes is malformed or of another version."""
