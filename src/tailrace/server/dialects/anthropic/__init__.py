"""Anthropic's dialect: messages, token counts and its form of the model list.

``request`` and ``content_blocks`` are the bodies of requests, ``messages`` and ``prepare`` their translation. ``reply``
and ``stream`` encode replies, ``errors`` errors.
"""
