"""Holds any server against the wire rules that clients depend on: what ``tailrace check`` runs.

It reaches the server over raw sockets, because much of what breaks clients is below what HTTP libraries show: where a
chunk ends, how a header is spelt, what stands behind the last byte. It needs no fixture on the server and no
particular model; what a server gave no occasion to see is "not seen", never passed.
"""
