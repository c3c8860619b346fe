"""Memory, use, temperature and power of this machine's devices, for people and metrics.

``device_watch`` is what others use. Each source of figures has a thread of its own: a driver's library that hangs or
fails costs its figures, and nothing else. Nothing here decides where a model's tensors go.
"""
