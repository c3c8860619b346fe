"""tailrace: a server for GGUF language models that speaks the APIs that clients already speak.

The package's rooms, from the bottom up: ``errors``, ``settings`` and ``messages`` know nothing of the rest; ``ipc``,
``models``, ``chat`` and ``observe`` stand on them; ``engine`` (turns tokens) and ``server`` (speaks HTTP) are two
processes that meet only in ``messages``; ``supervisor`` and ``cli`` stand on top.
"""

__version__ = "0.1.0"
