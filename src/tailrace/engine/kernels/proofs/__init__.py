"""Proofs that a built library of kernels computes what the formats and the formula of attention mean.

A compiler that is wrong about one instruction would spoil every reply, and has been seen to be. So every new library is
proved before it is used; ``make test`` and ``tailrace doctor --prove`` repeat the proofs. Each module owns one kind of
operation; ``stand_in`` and ``tensors`` take llama.cpp's place. Nothing here runs while a model is loaded.
"""

from __future__ import annotations

import ctypes

from tailrace.engine.kernels.proofs.attention import attention_is_right
from tailrace.engine.kernels.proofs.expert_layers import expert_layer_is_right
from tailrace.engine.kernels.proofs.expert_products import wrong_expert_products
from tailrace.engine.kernels.proofs.products import wrong_products
from tailrace.engine.kernels.proofs.prompt_products import wrong_prompt_products
from tailrace.engine.kernels.proofs.recurrent import wrong_recurrent
from tailrace.engine.kernels.proofs.repacked_products import wrong_repacked_products


def wrong_results(library: ctypes.CDLL) -> list[str]:
    """What ``library`` computes wrongly or not at all: a format's name for products with weights in the file's order,
    ``repacked``, ``experts`` or ``prompt`` and the name, ``experts`` for a whole layer, an operation of recurrent
    layers, or ``attention``. Empty where all is right.

    The library must not be the one that llama.cpp uses in this process: afterwards it calls no function of llama.cpp.
    """
    wrong = [
        *wrong_products(library),
        *wrong_repacked_products(library),
        *wrong_expert_products(library),
        *wrong_prompt_products(library),
        *wrong_recurrent(library),
    ]
    if not expert_layer_is_right(library):
        wrong.append("experts")
    return wrong if attention_is_right(library) else [*wrong, "attention"]
