"""How the ingress forwards requests to a replica, and what the replica adds to its answers for it. Nothing else.

A forwarded request has the setting ``cluster_secret`` in ``state.SECRET_HEADER``, the client's address in
``CLIENT_HEADER``, and an ``x-request-id``. The ingress has checked its Host and Origin, so the replica doesn't.

Until an engine has begun with the request's work, the replica writes nothing on its connection: no head, no keep-alive.
Then it writes ``BEGUN`` once, before the head. So the ingress may send a request to another replica as long as it has
read nothing, and no prompt is computed twice. An answer without an engine's work, such as an error, has no ``BEGUN``.
"""

from __future__ import annotations

#: The header with the address of the client's end of its connection to the ingress, in lower case.
CLIENT_HEADER = "x-tailrace-client"
#: An interim response: the engine works on the request from now on (RFC 9110, section 15.2). Clients never get it.
BEGUN = b"HTTP/1.1 102 Processing\r\n\r\n"
