"""Sampling: from a row of logits to the next token.

It owns the samplers, their order, and each sequence's sampler state (random numbers, histories). ``logits_ops`` has the
passes over whole rows, in C and NumPy. It must not know the scheduler or the KV cache.

A new sampler has a name in ``generation_params.SamplerName``, a condition in ``sampler_plan``, and its parameters in
``chain``.
One that keeps a range of the sorted candidates is a ``SamplerKind`` with a function in each of ``full_row_samplers``,
``numpy_impl/sorted_candidates.py`` and ``native/sorted_candidates.c``, and a step in ``native/proof.py``. Others are a
class of their own, like ``Infill``; those that change logits are a ``LogitsProcessor``, like ``Dry``.
"""
