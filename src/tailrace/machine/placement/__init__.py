"""Which device holds and computes which part of a model, and how fast that is. Pure: it asks no device.

``parts`` has what a model is made of, ``devices`` what a machine offers, and ``assumed`` the numbers of devices that
nothing has measured. ``division`` is a placement, ``cost`` predicts its speed and memory, ``demands`` has what a user
wants, and ``search`` finds the best placement, with ``division_search`` and its bound ``remaining_cost``. ``reasons``
says why it is the best one.

Two words are used throughout. A layer's *home* is the device that computes its attention and holds its KV cache. Its
*feed* is the part that may be on another device: the routed experts (``ffn_*_exps``), or in a dense model the
feed-forward part.
"""
