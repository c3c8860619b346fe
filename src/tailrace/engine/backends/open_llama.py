"""Opening a model file with the threads and sizes that settings and plan say. It says nothing to anybody."""

from __future__ import annotations

from pathlib import Path

from tailrace.engine.backends import llama
from tailrace.machine.plan import ReplicaPlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.settings import Settings


def open_llama(
    path: Path,
    settings: Settings,
    replica: ReplicaPlan | None = None,
    *,
    replicas: int = 1,
    log: llama.LogSink | None = None,
    progress: llama.Progress | None = None,
) -> llama.LlamaBackend:
    """The backend for exactly the file ``path``, warmed up, as one of ``replicas`` that share the machine and placed
    as ``replica`` says (as the machine's plan says for None). Raises ModelError and ConfigurationError.
    """
    replica = replica or make_plan(read_topology(), settings).replicas[0]
    options = llama.LlamaOptions(
        decode_pool=replica.decode,
        prefill_pool=replica.prefill,
        own_weights=replica.node is not None or bool(replica.interleave),
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
