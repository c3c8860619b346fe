"""Which device holds and computes which tensor of a model, and the workers that have some of these devices.

``device_list`` reads the setting ``devices``, ``rules`` the setting ``placement``. ``rule_demands`` turns both into
demands on the planner (``tailrace.machine.placement``), ``placement`` makes the plan, and ``tensor_homes`` has each
tensor's device in it. ``worker_link`` is the connection to a worker's status port, ``worker_watch`` waits for workers
and ends the process when one is lost. llama.cpp is asked in ``tailrace.engine.backends.llama``.
"""
