"""Kernels of our own, put in the place of llama.cpp's on CPUs that they are for.

``gemm.c`` (products) and ``attention.c`` are called in llama.cpp's place; ``build`` compiles them for this CPU;
``proof`` and ``*_proof`` check all results of a library before it is used; ``loader`` loads it into the process;
``repacked_weights`` limits and frees the repacked copy of a model's weights. Nothing here knows models or the binding.
"""
