"""The scheduling policy: which sequences run in the next step, in which slots, and with how many tokens.

``scheduler`` has admission and prefill; ``fair_queue`` orders waiting sequences and ``turns`` prompts, fair between
callers; ``preemption`` chooses which sequence is paused. ``cell_allocator`` frees cells; ``slot_compaction`` keeps
decoding sequences in adjacent slots; ``prefill_budget`` learns how many prompt tokens a step may compute. Pure policy:
no model, no I/O.
"""
