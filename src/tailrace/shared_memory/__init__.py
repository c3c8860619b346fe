"""Pages of memory that the supervisor and its children share, as inherited file descriptors.

``progress_page`` is one child's report to the supervisor, ``cores_page`` shows which engines compute, ``lives_page``
counts the children's starts, and ``log_page`` has their last log lines. ``memory_file`` makes the memory. A report is
a store into memory: it never waits, and it outlives the process that wrote it. Nothing here decides anything.
"""
