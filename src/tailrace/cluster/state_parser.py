"""Reads a replica's state channel from the bytes of its connection: an HTTP response whose body is lines of JSON.

It opens no connection, so a thread and an event loop can both use it.
"""

from __future__ import annotations

import httptools
import msgspec

from tailrace.cluster_protocol.state import SECRET_HEADER, STATE_VERSION, ReplicaState, StateMessage

#: Max bytes of one message: the hashes of all prefixes in base64 have 700 kB.
_MAX_MESSAGE = 4_000_000


class ChannelError(Exception):
    """What comes can't be used; the message says why."""


def request_head(host: str, port: int, secret: str) -> bytes:
    """The request for the channel of the replica there."""
    return f"GET /cluster/state HTTP/1.1\r\nhost: {host}:{port}\r\n{SECRET_HEADER}: {secret}\r\n\r\n".encode()


class StateParser:
    """The parser of one response. ``has_ended``: the replica has ended it, because it has drained."""

    def __init__(self) -> None:
        self.has_ended = False
        self._status = 0  #: 0: not known yet
        self._rest = b""
        self._parser = httptools.HttpResponseParser(self)
        self._decoder: msgspec.json.Decoder[StateMessage] = msgspec.json.Decoder(StateMessage)

    def feed(self, data: bytes) -> list[StateMessage]:
        """The messages that are whole now. Raises ChannelError."""
        try:
            self._parser.feed_data(data)
            if self._status not in (0, 200):
                raise ChannelError(f"status {self._status}: has the replica the same cluster_secret?")
            *lines, self._rest = self._rest.split(b"\n")
            messages = [self._decoder.decode(line) for line in lines if line]
        except (ValueError, RecursionError, httptools.HttpParserError) as error:  # msgspec's errors are ValueErrors.
            raise ChannelError(f"a message can't be read: {error}") from error
        for message in messages:
            if isinstance(message, ReplicaState) and message.version != STATE_VERSION:
                raise ChannelError(f"version {message.version} of the messages; this process knows {STATE_VERSION}")
        return messages

    # httptools' callbacks

    def on_headers_complete(self) -> None:
        """The status line is whole, too."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._rest += body
        if len(self._rest) > _MAX_MESSAGE:
            raise ValueError("a message is too long")

    def on_message_complete(self) -> None:
        """The body has ended."""
        self.has_ended = True
