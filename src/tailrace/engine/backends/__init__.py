"""Backends compute batches of tokens: ``llama`` with llama.cpp, ``fake`` without a model. ``base`` is the interface."""
