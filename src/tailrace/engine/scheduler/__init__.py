"""The scheduler's policy: which sequences run in the next step, in which slots, and the prefill budget of that step."""
