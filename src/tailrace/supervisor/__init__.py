"""The supervisor: starts the engines and the HTTP process, watches and replaces them, and stops them.

``supervisor`` has the processes' life, ``child_process`` one process, ``watch`` the rule for a hang, ``restarts`` the
rule for a new start, ``signal_queue`` the signals, ``service_manager`` systemd's protocol. It speaks to no client, and
reads no message of an engine.
"""

from __future__ import annotations

from tailrace.supervisor.supervisor import Supervisor

__all__ = ["Supervisor"]
