"""The scheduling policy: which sequences run in the next step, in which slots, and with how many tokens.

``scheduler`` has the queue, admission and prefill; ``cell_allocator`` frees cells for it; ``slot_compaction`` keeps
decoding sequences in adjacent slots; ``prefill_budget`` learns how many prompt tokens a step may compute. Pure policy:
no model, no I/O.
"""
