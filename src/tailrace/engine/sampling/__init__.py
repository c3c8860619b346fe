"""Sampling: from a row of logits to the next token.

It owns the samplers, their order, and each sequence's sampler state (random numbers, histories). ``logits_ops`` has the
passes over whole rows, in C and NumPy. It must not know the scheduler or the KV cache.
"""
