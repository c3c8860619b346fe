"""``tailrace worker``: offers this machine's devices to engines on other machines, by llama.cpp's RPC protocol.

``address`` says where a worker may listen, ``service`` runs it. ``reports`` makes its reports, and ``status_server``
sends them to the engines. ``client`` finds out which engine is connected. ``tensor_cache`` bounds the files of tensors,
``memory_limit`` the memory. The engine's side is ``tailrace.engine.devices``.
"""
