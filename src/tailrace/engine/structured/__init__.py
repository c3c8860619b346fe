"""Structured output: what may stand next in a reply, by llguidance. Only this package touches that library.

``source`` translates what a request asks for, ``matcher`` makes the library's objects, ``sandbox`` tries a grammar in a
process of its own (whose program is ``trial``), ``compiler`` compiles it beside the loop and remembers it,
``constraint`` holds one reply's state, ``masks`` computes masks while the model computes logits.
"""
