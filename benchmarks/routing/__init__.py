"""Ways to choose a replica, compared: on recorded traces in a simulator, and with real engines (``cluster_trace``)."""
