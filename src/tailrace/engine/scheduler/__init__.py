"""The scheduling policy: which sequences run in the next step, in which slots, and with how many tokens.

``scheduler`` plans a step. ``fair_queue`` has the waiting sequences, and ``preemption`` chooses which one is paused;
``prompt_scheduler`` shares a step's prompt tokens, of which ``prefill_budget`` learns how many there may be. These are
fair between callers (``turns``). ``cell_allocator`` frees cells; ``slot_compaction`` keeps decoding sequences in
adjacent slots. Pure policy: no model, no I/O.
"""
