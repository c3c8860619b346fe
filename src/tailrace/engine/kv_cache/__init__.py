"""The KV cache's accounting and the prefix cache: which slot holds which tokens, and where prefixes go that leave it.

``cache`` has the slots, ``layout`` how cells are divided among them, ``prefix_store`` the prefix states in host memory,
``disk_tier`` those in files. ``eviction`` is the one policy of all three: least recently used. ``cache_ops`` are the
changes that a plan asks of the model's cache, and ``cache_op_executor`` applies them.
"""
