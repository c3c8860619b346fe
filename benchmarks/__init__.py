"""Benchmarks of tailrace against itself, the bare engine and other servers: ``python -m benchmarks``.

Each module answers one question, runs alone (``python -m benchmarks.flood``) and may have a bound. ``harness`` has the
shared parts. Nothing here is part of the product.
"""
