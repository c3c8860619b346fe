"""What a process asks the operating system about itself and its threads.

``address_space`` limits its memory, ``open_files`` raises its limit of open files, ``parent_death`` ends it with its
parent. ``thread_name`` and ``thread_priority`` are for one thread. Its CPUs and NUMA nodes are in ``machine.binding``.
"""
