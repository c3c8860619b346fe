"""The KV cache's accounting and the prefix cache: which slot holds which tokens, and where prefixes go that leave it.

``cache`` has the slots, ``layout`` how cells are divided among them, ``prefix_store`` the prefix states in host memory,
``disk_tier`` those on the disk: each a ``state_file`` in a ``state_folder``, found by the ``state_index``. ``eviction``
is the one policy of all tiers: least recently used. ``cache_ops`` are a plan's changes to the model's cache,
and ``cache_op_executor`` applies them.
"""
