"""The engine process: turns tokens, and knows nothing of HTTP.

``process`` starts it in its place, ``service`` loads and connects, ``intake`` receives and tokenises, ``loop`` steps,
``scheduler`` decides (pure policy), ``sequence`` holds one generation's state, ``cache`` accounts for the KV cells,
``sampling`` chooses tokens by the passes of ``rows``, ``backend`` is what the loop needs of a model, ``llama`` and
``fake`` are its two implementations.
"""
