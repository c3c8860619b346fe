"""Backends compute batches of tokens. ``base`` is the interface, ``llama`` uses llama.cpp, ``fake`` has no model.

``open_llama`` loads a model with the settings' and the plan's options.
"""
