"""The engine process: computes tokens and has no HTTP code.

``process`` is its entry, ``service`` loads the model and connects, ``load`` makes backend and loop, ``intake`` receives
and tokenises, ``loop`` runs one step after the other. Each other part is a package: ``scheduler``, ``kv_cache``,
``sampling``, ``speculation``, ``structured``, ``tokenising``, ``weights``, ``backends`` and ``kernels``; ``embeddings``
has the passes for texts that are not continued.
"""
