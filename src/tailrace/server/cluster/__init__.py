"""A replica's part of a cluster: private routes for the ingress. They exist with the setting ``cluster_secret`` alone.

``state_routes`` reports phase and load. ``server.forwarding`` is what changes for requests that the ingress forwards.
"""
