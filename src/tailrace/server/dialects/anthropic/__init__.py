"""Anthropic's dialect: messages, token counts and its form of the model list.

``blocks`` and ``request`` are what comes in, ``history`` and ``prepare`` what becomes of it; ``reply`` and ``stream``
are what goes out, ``errors`` how a refusal looks.
"""
