"""tailrace: a server for GGUF language models that speaks the APIs that clients already speak.

Its packages, from the bottom up: ``errors``, ``settings`` and ``protocol`` import nothing of the rest; ``machine``,
``models``, ``chat`` and ``observe`` stand on them; ``engine`` (computes tokens) and ``server`` (speaks HTTP) are two
processes that meet only in ``protocol``; ``conformance`` and ``loadtest`` reach any server over HTTP; ``tuning``,
``supervisor`` and ``cli`` stand on top.
"""

__version__ = "0.1.0"
