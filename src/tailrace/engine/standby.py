"""A process that has its modules before it has orders: a model that is loaded on demand doesn't wait for Python.

The supervisor starts it with what such an import depends on (``child.Standby``). Orders for another choice have the
process start again, as the same process, so that its parent sees no difference.
"""

from __future__ import annotations

import os
import sys
import tempfile

from tailrace.child import Standby, Start
from tailrace.engine.kernels import loader
from tailrace.machine.openmp_spin import set_spin_count


def import_modules(standby: Standby) -> None:
    """Import everything that loads and runs a model. No thread is made: those would miss the plan's binding."""
    set_spin_count(standby.poll)
    loader.choose(standby.kernels)
    from tailrace.engine import service
    from tailrace.engine.sampling import logits_ops

    if not standby.imports_llama:
        return
    logits_ops.enable_native(standby.kernels)
    from tailrace.engine.backends import create_llama
    from tailrace.engine.weights import file_choice

    # Named, so that no linter takes the imports for unused ones.
    assert all((service, create_llama, file_choice))


def fits(standby: Standby, start: Start) -> bool:
    """Whether the imported modules are those that the orders need."""
    plan = start.plan.replicas[start.replica]
    return (standby.kernels, standby.poll) == (start.settings.kernels, plan.decode.poll)


def start_again(orders: bytes) -> None:
    """Replace this process's program by one without modules, with the same orders on its standard input."""
    with tempfile.TemporaryFile() as file:
        file.write(orders)
        file.seek(0)
        os.dup2(file.fileno(), 0)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tailrace.engine.process"])
