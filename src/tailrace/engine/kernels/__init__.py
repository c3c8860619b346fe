"""Kernels of our own for matrix products and attention, which llama.cpp calls in the place of its own functions.

``products``, ``attention`` and ``loading`` are C (docs/kernels.md says what each file has); ``formats.h`` is the one
table of weight formats. In Python ``build`` compiles the C code for an instruction tier, ``proofs`` checks a library's
results before it is used, ``loader`` loads it before llama.cpp, ``symbols`` reads what llama.cpp exports, ``formats``
reads the table, ``repacked_weights`` limits and frees the repacked copy of a model's weights, ``report`` says what is
used and why. Nothing here knows models or the binding.
"""
