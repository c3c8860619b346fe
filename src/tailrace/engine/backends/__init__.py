"""Backends compute batches of tokens. ``base`` is the interface, ``llama`` uses llama.cpp, ``fake`` has no model.

``create_llama`` loads a model with the settings' and the plan's options.
"""
