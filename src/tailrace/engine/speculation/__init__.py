"""Speculative decoding: where draft tokens come from, and how many of them a step verifies.

It owns the drafters (prompt lookup, a draft model), the acceptance rates, the pass cost model, and the choice of draft
lengths. It must not sample: a draft token is accepted if the sampler chooses it anyway.
"""
