"""One request's way to a replica and the response's way back.

It chooses a replica, forwards the request, and goes to another replica as long as no engine has begun. From then on a
lost replica is an error for the client, so that nothing is computed twice. While nothing comes, a stream is opened with
signs of life. Bytes of the body are written as they come; a client that is behind stops the reading from its replica.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tailrace.cluster.ingress.exchange import Exchange, WholeReply
from tailrace.cluster.ingress.forwarded_request import ForwardedRequest
from tailrace.cluster.ingress.orders import IngressStart
from tailrace.cluster.ingress.prompt_lookup import LookedUp, look_up
from tailrace.cluster.ingress.replicas import Placement, Replicas
from tailrace.cluster.ingress.response_framing import ResponseHead
from tailrace.errors import NoReplica, ReplicaLost, RequestError, ShuttingDown, TooManyRequests
from tailrace.server.request_cycle import RawResponse

_END = b"0\r\n\r\n"
#: Seconds before a request goes to a replica that is ready, but whose connection has just broken.
_PAUSE_SECONDS = 0.25

Outcome = WholeReply | RequestError | Literal["ended", "broken"]


class Relay:
    """See the module. It is the ``ReplySink`` of its exchanges."""

    def __init__(
        self, start: IngressStart, replicas: Replicas, request: ForwardedRequest, body: bytes, raw: RawResponse
    ) -> None:
        self.replica = ""  #: the last one's id
        self.attempts = 0
        self.woke = False  #: it found no replica of a model that sleeps
        self.status: int | None = None  #: of the response; None: none has begun
        self.error: str | None = None  #: the code of the error with which the ingress has ended it
        self.client_gone = False
        self.on_begun: Callable[[], None] = _do_nothing  #: called when the request isn't sent again
        self._start = start
        self._replicas = replicas
        self._request = request
        self._body = body  #: empty once the request isn't sent again
        self._facts = request.facts
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._placement: Placement | None = None
        self._outcome: asyncio.Future[Outcome] | None = None  #: of the attempt
        self._looked_up = LookedUp()
        self._failure: asyncio.Future[RequestError] = self._loop.create_future()
        self._reply_head: ResponseHead | None = None  #: of a response whose body is relayed
        self._life: asyncio.TimerHandle | None = None
        self._draining: asyncio.Task[None] | None = None
        self._opened_here = False  #: the ingress has written the stream's head
        self._task = asyncio.current_task()

    @property
    def placement(self) -> Placement | None:
        """The last place at a replica; None where there was none."""
        return self._placement

    @property
    def waits(self) -> bool:
        """Whether no engine has begun with the request."""
        return self._reply_head is None and (self._exchange is None or not self._exchange.has_begun)

    async def run(self) -> None:
        """Return when the response is complete or the client has gone. Raises RequestError where nothing is sent."""
        self._raw.on_disconnect = self._on_disconnect
        if self._request.streams:
            self._life = self._loop.call_later(self._request.keepalive_seconds, self._show_life)
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self.client_gone:
                raise
        except RequestError as error:
            self.error = error.code or error.type
            if self.status is None:
                raise
            self._end_stream(error)
        finally:
            self._raw.on_disconnect = _do_nothing
            self._stop_timer()
            if self._exchange is not None:
                self._exchange.abort()
            if self._placement is not None:
                self._placement.end()

    def fail(self, error: RequestError) -> None:
        """End with an error: the ingress stops."""
        if not self._failure.done():
            self._failure.set_result(error)
        self._settle(error)

    async def _run(self) -> None:
        self._looked_up = await look_up(self._request, self._body, self._replicas, seconds=self._start.lookup_seconds)
        tried: set[str] = set()
        refused: WholeReply | None = None  #: the last answer of a replica that takes no request now
        while True:
            placement = await self._place(tried, refused)
            if placement is None:
                assert refused is not None
                self._answer(refused)
                return
            self._placement, self.replica = placement, placement.replica.view.id
            self.attempts += 1
            outcome = await self._attempt(placement)
            has_begun = not self.waits
            placement.end()
            tried.add(self.replica)
            if isinstance(outcome, RequestError):
                raise outcome
            if isinstance(outcome, WholeReply):
                if outcome.head.status != 503 or has_begun or self.attempts >= self._start.attempts:
                    self._answer(outcome)
                    return
                refused = outcome
            elif outcome == "ended":
                self._raw.end(keep_alive=self._keeps_alive)
                return
            elif has_begun:
                raise ReplicaLost("The replica that worked on this request was lost. Trying again is safe.")
            elif self.attempts >= self._start.attempts:
                raise NoReplica(f"{self.attempts} replicas were lost before they began with this request. Try again.")

    # Choosing

    async def _place(self, tried: set[str], refused: WholeReply | None) -> Placement | None:
        """A place at a replica; None where all that are ready have ``refused``. Raises NoReplica after the wait."""
        request, replicas = self._request, self._replicas
        seconds = self._start.wait_seconds if request.wakes else self._start.settings.engine_wait_seconds
        end = self._loop.time() + seconds
        prompts, sequences = self._looked_up
        while (placement := replicas.choose(request.model, prompts, tried, sequences=sequences)) is None:
            if refused is not None:
                return None
            left = end - self._loop.time()
            if not request.waits or request.model is None or left <= 0:
                raise NoReplica(self._reason())
            if replicas.waiting.total() >= self._start.settings.queue_requests:
                raise TooManyRequests("Too many requests wait for a replica; try again.", retry_after=5)
            self.woke = self.woke or request.wakes
            tried.clear()  # A replica that was lost may come back, and one whose connection broke may go on.
            pause = _PAUSE_SECONDS if replicas.is_ready(request.model) else left
            await self._wait_for_change(request.model, min(left, pause))
        return placement

    async def _wait_for_change(self, model: str, seconds: float) -> None:
        """Return when replicas have changed, or after ``seconds``. Raises what ``fail`` got."""
        changed = asyncio.ensure_future(self._replicas.change(model))
        try:
            await asyncio.wait((changed, self._failure), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._failure.done():
            raise self._failure.result()

    def _reason(self) -> str:
        if self._request.model is None:
            return "No replica is ready."
        return f"No replica of the model '{self._request.model}' is ready."

    # One attempt

    async def _attempt(self, placement: Placement) -> Outcome:
        request = self._request
        for fresh in (False, True):
            try:
                connection = await placement.replica.pool.connection(fresh=fresh)
            except (OSError, TimeoutError):
                self._exchange = None
                return "broken"
            if self._failure.done():
                connection.give_back()
                return self._failure.result()
            self._outcome = self._loop.create_future()
            exchange = self._exchange = Exchange(connection, request.method, self)
            exchange.start(request.head, self._body)
            outcome = await self._outcome
            # A replica closes idle connections: this one may have ended before the request came.
            stale = outcome == "broken" and not exchange.has_bytes and not connection.is_fresh
            if not stale or not placement.replica.takes_requests:
                break
        return outcome

    # What the exchange calls

    def begun(self) -> None:
        """See ``ReplySink``."""
        if self._placement is not None:
            self._placement.begun()
        self._let_body_go()

    def whole(self, reply: WholeReply) -> None:
        """See ``ReplySink``."""
        self._settle(reply)

    def opened(self, head: ResponseHead, raw_head: bytes) -> None:
        """See ``ReplySink``. Where signs of life have opened the stream, it has a head already."""
        self._stop_timer()
        self._let_body_go()
        self._reply_head = head
        if self._opened_here:
            return
        self.status = head.status
        self._raw.write(self._named(raw_head))

    def relay(self, data: bytes) -> None:
        """See ``ReplySink``."""
        raw, facts = self._raw, self._facts
        raw.write(data)
        if not facts.first:
            facts.first = data
        facts.last = data
        if raw.write_paused and self._draining is None and self._exchange is not None:
            self._exchange.pause()
            self._draining = self._loop.create_task(self._resume_later(self._exchange))

    def ended(self) -> None:
        """See ``ReplySink``."""
        self._settle("ended")

    def broken(self) -> None:
        """See ``ReplySink``."""
        self._settle("broken")

    def _settle(self, outcome: Outcome) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    async def _resume_later(self, exchange: Exchange) -> None:
        """Go on reading when the client has taken most of what is written."""
        await self._raw.drain()
        self._draining = None
        exchange.resume()

    def _let_body_go(self) -> None:
        """The request isn't sent again: a long stream needn't hold its body."""
        self._body = b""
        self.on_begun()

    # What the ingress writes itself

    def _answer(self, reply: WholeReply) -> None:
        """Write a response that is no stream."""
        self._stop_timer()
        if self._opened_here:
            self._end_stream(_error_of(reply)) if reply.head.status >= 400 else self._end_body(reply.body)
            return
        self.status = reply.head.status
        self._raw.write(self._named(reply.raw_head) + reply.body)
        self._raw.end(keep_alive=not reply.head.closes)

    def _named(self, raw_head: bytes) -> bytes:
        """The head, with the replica's name where that is wanted."""
        if not self._start.replica_header:
            return raw_head
        return b"%bx-tailrace-replica: %b\r\n\r\n" % (raw_head[:-2], self.replica.encode("ascii", "replace"))

    def _show_life(self) -> None:
        """Nothing has come for long: open the stream, then send signs of life."""
        if self.status is None:
            self._opened_here = True
            self.status = 200
            self._raw.write(self._stream_head())
        self._raw.write(self._framed(self._request.dialect.keep_alive(self._facts)))
        self._life = self._loop.call_later(self._request.keepalive_seconds, self._show_life)

    def _stream_head(self) -> bytes:
        headers = [
            (b"date", formatdate(time.time(), usegmt=True).encode()),
            *self._request.dialect.headers,
            *self._request.own_headers,
        ]
        if not self._raw.keep_alive:
            headers.append((b"connection", b"close"))
        if self._request.is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        return b"".join([STATUS_LINE[200], *(b"%b: %b\r\n" % header for header in headers), b"\r\n"])

    def _end_stream(self, error: RequestError) -> None:
        """End the open stream with the dialect's error; where a chunk is cut, with the connection."""
        head = self._reply_head
        is_cut = head is not None and (
            head.length is not None or (head.chunked and not (self._exchange and self._exchange.is_between_chunks))
        )
        if is_cut:
            self._raw.end(keep_alive=False)
            return
        self._end_body(b"".join(map(self._framed, self._request.dialect.failure(self._facts, error))), framed=True)

    def _end_body(self, body: bytes, *, framed: bool = False) -> None:
        body = body if framed or not body else self._framed(body)
        self._raw.write(body + _END if self._request.is_chunked else body)
        self._raw.end(keep_alive=self._keeps_alive)

    @property
    def _keeps_alive(self) -> bool:
        """Whether the client's connection goes on, as far as the framing of its response is concerned."""
        head = self._reply_head
        return self._request.is_chunked and (head is None or not head.closes)

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._request.is_chunked else piece

    def _stop_timer(self) -> None:
        if self._life is not None:
            self._life.cancel()
            self._life = None

    def _on_disconnect(self) -> None:
        """The client has gone: so is its request at the replica, at once."""
        self.client_gone = True
        if self._exchange is not None:
            self._exchange.abort()
        if self._task is not None:
            self._task.cancel()


class _ErrorFields(msgspec.Struct):
    message: str = "The replica has answered with an error."
    type: str = "server_error"
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields | str


def _error_of(reply: WholeReply) -> RequestError:
    """The error that a replica has answered with, for a stream that is open already."""
    try:
        found = msgspec.json.decode(reply.body, type=_ErrorBody).error
    except msgspec.MsgspecError:
        found = _ErrorFields()
    fields = _ErrorFields(message=found) if isinstance(found, str) else found
    error = RequestError(fields.message, code=fields.code if isinstance(fields.code, str) else None)
    error.status, error.type = reply.head.status, fields.type
    return error


def stopping() -> ShuttingDown:
    """The error of requests that the ingress ends when it stops."""
    return ShuttingDown("This ingress stops; another one, or the next one on this address, can serve the request.")


def _do_nothing() -> None:
    """No callback."""
