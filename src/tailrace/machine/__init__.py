"""This computer: its hardware, the limits of this process, free memory, and the plan of threads and memory on it.

``topology``, ``cgroup``, ``isa``, ``gpu``, ``free_memory`` and ``bandwidth`` read the machine; ``planner`` and
``replicas`` make the plan; ``binding`` applies it and ``applied_placement`` compares it with what the kernel reports.
``tuning_record`` stores measured settings. Nothing here knows a model's weights or the engine.
"""
