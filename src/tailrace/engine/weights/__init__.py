"""Selects the weights file that is loaded: converts a model to a faster format, and measures its quality and speed."""
