"""The contract between a cluster's ingress and its replicas.

``state`` has the messages about load and prefixes, ``prefix_chain`` the hashes by which they name prefixes, and
``forwarding`` the headers and bytes of a forwarded request.
"""
