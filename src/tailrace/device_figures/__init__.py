"""Memory, use, temperature and power of this machine's devices, for people and metrics.

``device_watch`` is what others use. Each source of figures has a thread of its own (``source_thread``): a driver's
library that hangs or fails costs its figures, and nothing else. Sources are ``cpu``, ``nvidia`` and ``amd`` (through a
``vendor_library``), and ``linux_gpu`` for what drivers show in sysfs; ``sensors`` reads temperatures and power.
``tcp_connection`` is what the kernel counts of a link. Nothing here decides where a model's tensors go.
"""
