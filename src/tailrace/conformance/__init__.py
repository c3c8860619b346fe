"""The conformance checker behind ``tailrace check``: tests any server against the wire rules that clients depend on.

It uses raw sockets, because HTTP libraries hide much of what breaks clients: where a chunk ends, how a header is spelt,
which bytes follow the last one. It needs no fixture on the server and no particular model. A rule that could not be
observed is reported as "not seen", never as passed.
"""
