"""Opens a model file with llama.cpp, with the threads and sizes of settings and plan. It logs nothing itself."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends import llama
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.settings import Settings


def create_llama(
    path: Path,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    log: llama.LogSink | None = None,
    progress: llama.Progress | None = None,
) -> llama.LlamaBackend:
    """The warmed-up backend for the file ``path``. Raises ModelError and ConfigurationError.

    ``replica``: its plan (None: the machine's plan). ``replicas``: engine processes that share the machine's memory.
    """
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    options = llama.LlamaOptions(
        decode_pool=replica.decode,
        prefill_pool=replica.prefill,
        private_weights=replica.node is not None or bool(replica.interleave),
        replicas=replicas,
        node=replica.node,
        ctx=settings.ctx,
        parallel=settings.parallel,
        kv_tokens=settings.kv_tokens,
        batch=settings.prefill_chunk,
        gpu_layers=settings.gpu_layers,
    )
    backend = llama.LlamaBackend(path, options, log=log, progress=progress)
    backend.warm_up()
    return backend
