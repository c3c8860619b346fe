"""The passes over logits in C (``*.c``), for CPUs with AVX-512.

``build`` compiles the library, ``proof`` compares it with ``numpy_impl``, ``ops`` calls it through ctypes.
"""
