"""How fast tailrace is, against itself, the bare engine and other servers: ``python -m benchmarks``.

One module asks one question, runs by itself (``python -m benchmarks.flood``) and is held against a bound. ``harness``
owns what they share. Nothing here is part of the product.
"""
