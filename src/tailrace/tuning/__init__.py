"""Measures a model's settings on this machine, and the engine loop alone for ``tailrace bench --compare``."""
