"""Sampling: from a row of logits to the next token. ``logits_ops`` has the passes over whole rows, in C and NumPy."""
