"""The supervisor: starts the engines and the HTTP process, watches and replaces them, and stops them.

``supervisor`` has the processes' life, ``child_process`` one process, ``child_factory`` what processes inherit,
``engine_group`` one model's engines, ``model_groups`` all of them and the orders, ``control_link`` the channel over
which orders come, ``model_plan`` a model's place on the machine. ``watch`` has the rule for a hang, ``restarts`` that
for a new start, ``signal_queue`` the signals, ``service_manager`` systemd's protocol. It speaks to no client, and reads
no message of an engine.
"""

from __future__ import annotations

from tailrace.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
