"""Which device holds and computes which tensor of a model, and the workers that have some of these devices.

``device_list`` reads the setting ``devices``, ``rules`` the setting ``placement``. ``placement`` decides by them, from
sizes alone: it asks no device. ``worker_link`` is the connection to a worker's status port, ``worker_watch`` waits for
workers and ends the process when one is lost. llama.cpp is asked in ``tailrace.engine.backends.llama``.
"""
