"""What a server does as a cluster's replica: it publishes its state and tells how prompts begin.

``routes`` has the private routes, which exist with the setting ``cluster_secret`` alone. ``state_feed`` sends the state
to the ingresses, ``model_load`` and ``held_union`` make it. ``prompt_probe`` finds a request's prompts without
computing them, and ``server.known_prompts`` keeps their tokens for the request that follows. How requests are forwarded
is ``server.forwarding``'s.
"""
