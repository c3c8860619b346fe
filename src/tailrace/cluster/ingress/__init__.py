"""The ingress: one process that takes all clients' requests and forwards each to a replica.

``process`` is its entry; ``orders`` has the messages with its parent. Clients' connections are the server's own
(``server.listener``, ``server.http_protocol``), so their limits hold here, too. ``app`` answers a request or has it
forwarded by ``relay``; ``exchange`` is one attempt on an ``upstream`` connection, ``response_framing`` knows where a
response ends. ``replicas`` has all replicas, each with its ``state_channel``.

It computes nothing and knows no prompt: bytes of a reply pass as they come.
"""
