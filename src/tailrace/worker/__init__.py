"""``tailrace worker``: offers this machine's devices to engines on other machines, by llama.cpp's RPC protocol.

``address`` says where a worker may listen, ``service`` runs it, ``status_server`` reports to the engines, ``client``
finds out which one is connected, ``tensor_cache`` bounds the files of tensors, ``memory_limit`` the memory. What an
engine does with workers is in ``tailrace.engine.devices``.
"""
