"""Which device holds and computes which part of a model, and how fast that is. Pure: it asks no device.

``parts`` has what a model is made of, ``devices`` what a machine offers, ``cost`` predicts a placement's speed and
memory, ``search`` finds the best one.
"""
