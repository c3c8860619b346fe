"""The engine process: computes tokens and has no HTTP code.

``process`` is its entry. ``service`` loads the model and connects, with ``load`` for backend and loop. ``intake``
receives requests, and ``submission`` makes a ``sequence`` of each. ``loop`` runs one step after the other, and ``step``
is one of them: its batch and its sampled tokens. ``embeddings`` computes texts that aren't continued. ``inbox`` and
``helper_thread`` are what threads share with the loop, ``progress`` reports prompts.

Each other part is a package: ``scheduler``, ``kv_cache``, ``sampling``, ``speculation``, ``structured``,
``tokenising``, ``weights``, ``backends``, ``kernels``, and ``native_libs`` that compiles C code.
"""
